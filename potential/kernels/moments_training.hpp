// What training needs of the moments potential: gradients to its parameters of anything made of energies and forces.
//
// A loss L asks of every atom for ∂L/∂E and, forces being sums of the gradients g = ∂E/∂D to pair vectors D, for v = ∂L/∂g. Then
//
//     dL/dθ = d/dθ [ (∂L/∂E) E + v · ∂E/∂D ],      v · ∂E/∂D = dE(D + ε v)/dε at ε = 0,
//
// so that one pass forward with numbers that carry a rate of change, and one back, do what differentiating a gradient would
// (Pearlmutter, Neural Comput. 6, 147 (1994)). Matrices have two rows for an atom, its values and their rates: the network is the
// one of moments.hpp over twice as many rows.
//
//     adatom::Training<float> training;                          // scratch, one per thread; keep it
//     … fill `block` as for `evaluate`, block.close();
//     training.along(block): training.vx[n], vy, vz for n of block, 0 on padding;  energy_bar[a] for its atoms
//     training.learn(model, s, block, energy_bar, out);         // adds to out (as many numbers as the model has)

#pragma once

#include "moments.hpp"

namespace adatom {

// A number and its rate of change.
template <class T> struct Dual {
  V<T> v, d;
  friend Dual operator+(const Dual& a, const Dual& b) { return {a.v + b.v, a.d + b.d}; }
  friend Dual operator*(const Dual& a, const Dual& b) { return {a.v * b.v, a.v * b.d + a.d * b.v}; }
  friend Dual operator*(const Dual& a, T b) { return {a.v * b, a.d * b}; }
};

// Rows of numbers and of their rates, both `ld` apart.
template <class T> struct Duals {
  T *value, *rate;
  ptrdiff_t ld;
  Dual<T> operator()(int n, int k) const { return {load(value + n * ld + k), load(rate + n * ld + k)}; }
  void put(int n, int k, const Dual<T>& x) const { store(value + n * ld + k, x.v), store(rate + n * ld + k, x.d); }
};

template <class T> class Training {
 public:
  Array<T> vx, vy, vz;

  void along(const Block<T>& b) { vx.need(b.size()), vy.need(b.size()), vz.need(b.size()); }

  void learn(const Model<T>& m, int element, Block<T>& b, const T* energy_bar, T* out) {
    m_ = &m, b_ = &b, n_ = b.atoms(), out_ = out;
    const Net<T>& net = m.nets[element];
    distances(m, b);
    rates();
    sums();
    mix();
    features(net);
    network(net, energy_bar, element);
    unmix(net);
  }

 private:
  const Model<T>* m_;
  Block<T>* b_;
  int n_;
  T* out_;
  Array<T> tx_, ty_, tz_, tr_, tf_;                 // rates of unit vectors, distances, cutoffs
  Array<T> power_, gaussian_, turned_;              // of the neighbours of one element of one atom
  Array<T> sum_, tensor_, bar_;                     // all elements; degree by degree; their gradients
  Array<T> layer_, slope_, curve_, up_, next_;      // inputs of all layers; s′ and s″ż; gradients

  // Tensors are kept degree by degree, in a degree atom by atom, of an atom first values, then rates: one product mixes a degree.
  int row(int p, int a) const { return 2 * (n_ * p * (p + 1) * (p + 2) / 6 + a * (p + 1) * (p + 2) / 2); }
  struct Scattered {  // the tensors of one atom in this order
    T* at;
    const Training* own;
    int a, ld;
    std::pair<T*, T*> find(int n, int k) const {
      int p = 0, low = 0, count = 1;
      for (; n >= low + count; low += count, ++p, count += p + 1) {}
      T* first = at + ptrdiff_t(own->row(p, a) + n - low) * ld + k;
      return {first, first + ptrdiff_t(count) * ld};
    }
    Dual<T> operator()(int n, int k) const {
      const auto [v, d] = find(n, k);
      return {load(v), load(d)};
    }
    void put(int n, int k, const Dual<T>& x) const {
      const auto [v, d] = find(n, k);
      store(v, x.v), store(d, x.d);
    }
  };

  void rates() {
    const Block<T>& b = *b_;
    const int n = b.size();
    T *tx = tx_.need(n), *ty = ty_.need(n), *tz = tz_.need(n), *tr = tr_.need(n), *tf = tf_.need(n);
    for (int j = 0; j < n; ++j) {
      const T x = b.ux[j], y = b.uy[j], z = b.uz[j], along = vx[j] * x + vy[j] * y + vz[j] * z, over = b.inverse[j];
      tr[j] = along, tf[j] = b.df[j] * along;
      tx[j] = (vx[j] - along * x) * over, ty[j] = (vy[j] - along * y) * over, tz[j] = (vz[j] - along * z) * over;
    }
  }

  // Σ over neighbours of monomials × Gaussians × cutoff, and its rate, for each element.
  void sums() {
    const Model<T>& m = *m_;
    Block<T>& b = *b_;
    const int radial = m.sizes.radial, order = m.sizes.order, rows = 2 * n_ * m.n_monomials;
    T* sum = sum_.need(size_t(rows) * m.bases * m.sizes.elements);
    std::fill(sum, sum + size_t(rows) * m.bases * m.sizes.elements, T(0));
    for (int a = 0; a < n_; ++a)
      for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
        const auto& s = b.sections[q];
        const int room = s.room;
        T *y = power_.need(2 * m.n_monomials * room), *dy = y + m.n_monomials * room;
        T *g = gaussian_.need(2 * radial * room), *dg = g + radial * room;
        T *turned = turned_.need(2 * size_t(room) * m.bases), *rates = turned + size_t(room) * m.bases;
        for (int j = 0; j < room; j += kLanes<T>) {
          const int at = s.first + j;
          const Dual<T> x{load(b.ux.get() + at), load(tx_.get() + at)}, yy{load(b.uy.get() + at), load(ty_.get() + at)};
          const Dual<T> z{load(b.uz.get() + at), load(tz_.get() + at)};
          Duals<T> low{y + j, dy + j, room};
          low.put(0, 0, {load(b.f.get() + at), load(tf_.get() + at)});
          for (int p = 0; p < order; ++p) {
            const ptrdiff_t step = ptrdiff_t(p + 1) * (p + 2) / 2 * room;
            const Duals<T> next{low.value + step, low.rate + step, room};
            raise(p, x, yy, z, low, next);
            low = next;
          }
          const V<T> r = load(b.r.get() + at), dr = load(tr_.get() + at);
          for (int k = 0; k < radial; ++k) {
            const V<T> u = r - m.centres[k], e = exp<T>(-m.eta * u * u);
            store(g + k * room + j, e), store(dg + k * room + j, T(-2) * m.eta * u * dr * e);
          }
        }
        for (int j = 0; j < s.count; ++j)
          for (int k = 0; k < radial; ++k) turned[j * m.bases + k] = g[k * room + j], rates[j * m.bases + k] = dg[k * room + j];
        for (int p = 0, low = 0, count = 1; p <= order; low += count, ++p, count += p + 1) {
          T* to = sum + (size_t(s.element) * rows + row(p, a)) * m.bases;
          Product<T>{y + low * room, room, 1, turned, m.bases, to, m.bases, s.count}.run(count, radial);
          to += count * m.bases;
          Product<T>{dy + low * room, room, 1, turned, m.bases, to, m.bases, s.count}.run(count, radial);
          Product<T>{y + low * room, room, 1, rates, m.bases, to, m.bases, s.count, true}.run(count, radial);
        }
      }
  }

  void mix() {
    const Model<T>& m = *m_;
    const int rows = 2 * n_ * m.n_monomials;
    T* tensor = tensor_.need(size_t(rows) * m.channels + kPad);
    for (int t = 0; t < m.sizes.elements; ++t)
      for (int p = 0; p <= m.sizes.order; ++p) {
        const T* from = sum_.get() + (size_t(t) * rows + row(p, 0)) * m.bases;
        Product<T>{from, m.bases, 1, m.mix[p] + t * m.sizes.radial * m.channels, m.channels,
                   tensor + ptrdiff_t(row(p, 0)) * m.channels, m.channels, m.sizes.radial, t > 0}
            .run(n_ * (p + 1) * (p + 2), m.sizes.channels);
      }
  }

  void features(const Net<T>& net) {
    const Model<T>& m = *m_;
    const int ld = m.widest() + kPad;
    T* x = layer_.need((net.layers.size() + 1) * size_t(2 * n_) * ld + kPad);
    for (int a = 0; a < n_; ++a) {
      const Duals<T> own{x + a * ld, x + (n_ + a) * ld, 0};
      invariants<Dual<T>>(m, Scattered{tensor_.get(), this, a, m.channels}, own);
      for (int k = 0; k < m.n_features; ++k)
        own.value[k] = (own.value[k] - net.mean[k]) * net.inverse_std[k], own.rate[k] *= net.inverse_std[k];
    }
  }

  // What multiplies the network, E = q · (shift + scale · network) + …, and its rate.
  std::pair<T, T> envelope_rates(int a, int element) const {
    const Model<T>& m = *m_;
    const Block<T>& b = *b_;
    const Envelope<T> e = envelope(m, b, a, element);
    T total = 0, crowd = 0;
    for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
      const auto& s = b.sections[q];
      const T outer = m.outer[element * m.sizes.elements + s.element];
      for (int j = s.first; j < s.first + s.count; ++j) {
        total += tf_[j];
        if (!m.sizes.repulsion || b.r[j] >= outer) continue;
        const T x = (outer - b.r[j]) / (T(0.3) * outer);
        crowd -= T(3) * x * x * tr_[j] / (T(0.3) * outer);
      }
    }
    return {e.rim * e.damp, e.damp * (e.rim_slope * total - T(7) * e.rim * crowd)};
  }

  // Forward and back through the network; what it learns; gradients to the features in up_.
  void network(const Net<T>& net, const T* energy_bar, int element) {
    const Model<T>& m = *m_;
    const int ld = m.widest() + kPad, rows = 2 * n_, kind = m.sizes.activation;
    const size_t matrix = size_t(rows) * ld;
    T *x = layer_.get(), *slope = slope_.need(net.layers.size() * matrix), *curve = curve_.need(net.layers.size() * matrix);
    for (const Layer<T>& l : net.layers) {
      T* y = x + matrix;
      Product<T>{x, ld, 1, l.weight, padded(l.out), y, ld, l.in, false, l.bias}.run(n_, l.out);
      Product<T>{x + n_ * ld, ld, 1, l.weight, padded(l.out), y + n_ * ld, ld, l.in}.run(n_, l.out);
      for (int a = 0; a < n_; ++a) {
        T *own = y + a * ld, *rate = y + (n_ + a) * ld;
        for (int k = 0; k < padded(l.out); k += kLanes<T>) {
          const Response<T> r = respond<T>(kind, load(own + k));
          const V<T> dz = load(rate + k);
          store(own + k, r.y), store(rate + k, r.d * dz);
          store(slope + a * ld + k, r.d), store(curve + a * ld + k, r.dd * dz);
        }
      }
      if (l.out == l.in || l.out == 2 * l.in)
        for (int a = 0; a < rows; ++a)
          for (int first = 0; first < l.out; first += l.in)
            for (int k = 0; k < l.in; ++k) y[a * ld + first + k] += x[a * ld + k];
      x = y, slope += matrix, curve += matrix;
    }
    const int last = net.layers.empty() ? m.n_features : net.layers.back().out;
    T *up = up_.need(matrix + kPad), *next = next_.need(matrix + kPad), *learned = out_ + (net.last - m.numbers);
    for (int a = 0; a < n_; ++a) {
      const auto [q, dq] = envelope_rates(a, element);
      const T value = net.scale * (energy_bar[a] * q + dq), rate = net.scale * q;  // ∂/∂network, ∂/∂(its rate)
      out_[net.offset_at] += value;
      const T *own = x + a * ld, *change = x + (n_ + a) * ld;
      for (int k = 0; k < last; ++k) {
        learned[k] += value * own[k] + rate * change[k];
        up[a * ld + k] = value * net.last[k], up[(n_ + a) * ld + k] = rate * net.last[k];
      }
    }
    for (auto l = net.layers.rbegin(); l != net.layers.rend(); ++l) {
      x -= matrix, slope -= matrix, curve -= matrix;
      const bool same = l->out == l->in, twice = l->out == 2 * l->in;
      if (same || twice)
        for (int a = 0; a < rows; ++a)
          for (int k = 0; k < l->in; ++k) next[a * ld + k] = up[a * ld + k] + (twice ? up[a * ld + l->in + k] : T(0));
      T* bias = out_ + (l->bias - m.numbers);
      for (int a = 0; a < n_; ++a) {
        T *own = up + a * ld, *rate = up + (n_ + a) * ld;
        for (int k = 0; k < l->out; ++k) {
          own[k] = slope[a * ld + k] * own[k] + curve[a * ld + k] * rate[k], rate[k] *= slope[a * ld + k];
          bias[k] += own[k];
        }
      }
      Product<T>{x, 1, ld, up, ld, out_ + (l->weight - m.numbers), padded(l->out), rows, true}.run(l->in, l->out);
      Product<T>{up, ld, 1, l->turned, padded(l->in), next, ld, l->out, same || twice}.run(rows, l->in);
      std::swap(up, next);
    }
    back_ = up;
  }

  void unmix(const Net<T>& net) {
    const Model<T>& m = *m_;
    const int ld = m.widest() + kPad, rows = 2 * n_ * m.n_monomials;
    T* bar = bar_.need(size_t(rows) * m.channels + kPad);
    for (int a = 0; a < n_; ++a) {
      T *value = back_ + a * ld, *rate = back_ + (n_ + a) * ld;
      for (int k = 0; k < m.n_features; ++k) value[k] *= net.inverse_std[k], rate[k] *= net.inverse_std[k];
      // a gradient program over duals: what belongs to rates comes out as the value, what belongs to values as the rate
      const Scattered to{bar, this, a, m.channels};
      struct Turned {
        const Scattered& to;
        void put(int n, int k, const Dual<T>& x) const { to.put(n, k, {x.d, x.v}); }
      };
      invariants_back<Dual<T>>(m, Scattered{tensor_.get(), this, a, m.channels}, Duals<T>{rate, value, 0}, Turned{to});
    }
    for (int t = 0; t < m.sizes.elements; ++t)
      for (int p = 0; p <= m.sizes.order; ++p) {
        const T* from = sum_.get() + (size_t(t) * rows + row(p, 0)) * m.bases;
        T* to = out_ + (m.mix[p] + t * m.sizes.radial * m.channels - m.numbers);
        Product<T>{from, 1, m.bases, bar + ptrdiff_t(row(p, 0)) * m.channels, m.channels, to, m.channels,
                   n_ * (p + 1) * (p + 2), true}
            .run(m.sizes.radial, m.sizes.channels);
      }
  }
  T* back_ = nullptr;
};

}  // namespace adatom
