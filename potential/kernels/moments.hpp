// The moments potential of adatom on a CPU: energies of a few atoms, and their gradients to the vectors to their neighbours.
//
// Header only, C++17, no dependency but vectors.hpp. README.md beside this file has the layout of the parameters and the arithmetic; the
// equations are those of potential/descriptors/moments.py, potential/networks.py and potential/model.py, and a test holds the
// two equal to rounding. How to use it:
//
//     adatom::Model<float> model(sizes, numbers);             // numbers: one flat array, see README.md
//     adatom::Block<float> block;                              // scratch, one per thread; keep it
//     block.clear();
//     for each of some (about 16) atoms of element s:
//         block.begin_atom(most);                              // neighbours it may have
//         for t in elements: block.section(t); for each neighbour of element t: block.add(x, y, z, tag);
//     adatom::evaluate(model, s, block);
//     block.energy[a], block.virial[6 * a], and for n from block.first(a) to block.last(a): block.tag[n], block.gx[n] …
//
// Slots between sections are padding: their tag is negative.

#pragma once

#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "vectors.hpp"

namespace adatom {

// ------------------------------------------------------------------------------------------------------------- parameters

enum Activation { kTanh = 0, kSilu = 1, kGelu = 2, kSoftplus = 3 };

struct Sizes {
  int elements, radial, channels, order;
  bool isolated_limit, repulsion;
  int activation;
  std::vector<std::array<int, 3>> contractions;  // degrees, rising, none above the order
  std::vector<int> widths;
};

template <class T> struct Layer {
  int in, out;
  const T *weight, *bias, *turned;  // (in, padded out), (padded out), (out, padded in)
};

template <class T> struct Net {
  T shift, scale, offset;
  ptrdiff_t offset_at;  // of `offset` among the numbers
  const T *mean, *inverse_std, *last;
  std::vector<Layer<T>> layers;
};

// x^a y^b z^c by degree, in the order of `monomials` in Python: all of a degree times x, those without x times y, the last times
// z are the next degree. How often each occurs among the components of a tensor is its multiplicity.
struct Monomial {
  int degree;
  double multiplicity;
};

inline std::vector<Monomial> monomials(int order) {
  std::vector<Monomial> all{{0, 1.0}};
  std::vector<std::array<int, 3>> powers{{0, 0, 0}};
  for (int p = 0, low = 0, n = 1; p < order; ++p) {
    const int next = int(all.size());
    for (int axis = 0; axis < 3; ++axis)
      for (int m = axis == 0 ? low : axis == 1 ? low + n - (p + 1) : low + n - 1; m < low + n; ++m) {
        auto e = powers[m];
        ++e[axis];
        all.push_back({p + 1, all[m].multiplicity * (p + 1) / e[axis]});
        powers.push_back(e);
      }
    low = next, n = int(all.size()) - next;
  }
  return all;
}

// One product of three components, a share of a full contraction of three tensors.
template <class T> struct Term {
  ptrdiff_t i, j, k;
  T factor;
};

// Of tensors of degrees p, q, r: (p + q − r)/2 indices are common to the first two, (p + r − q)/2 to the first and the third, the
// rest to the last two. Products of the same components are one term. Found once: a model is made for every call.
template <class T> const std::vector<Term<T>>& contraction(std::array<int, 3> degrees) {
  static std::map<std::array<int, 3>, std::vector<Term<T>>> known;
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> guard(one_at_a_time);
  std::vector<Term<T>>& terms = known[degrees];
  if (!terms.empty()) return terms;
  const auto [p, q, r] = degrees;
  const int a = (p + q - r) / 2, b = (p + r - q) / 2, indices = (p + q + r) / 2;
  int combinations = 1;
  for (int n = 0; n < indices; ++n) combinations *= 3;
  std::map<std::array<int, 3>, double> factors;
  for (int x = 0; x < combinations; ++x) {
    int e[3][3] = {};  // exponents of x, y, z in each of the three
    for (int n = 0, rest = x; n < indices; ++n, rest /= 3)
      for (int t = 0; t < 3; ++t)
        if (t == 0 ? n < a + b : t == 1 ? n < a || n >= a + b : n >= a) ++e[t][rest % 3];
    std::array<int, 3> which;
    for (int t = 0; t < 3; ++t) {  // the place of a monomial: those of lower degree, then those with more x, then with more y
      const int d = degrees[t], less = d - e[t][0];
      which[t] = d * (d + 1) * (d + 2) / 6 + less * (less + 1) / 2 + e[t][2];
    }
    std::sort(which.begin(), which.end());
    factors[which] += 1.0;
  }
  for (const auto& [w, factor] : factors) terms.push_back({w[0], w[1], w[2], T(factor)});
  return terms;
}

template <class T> class Model {
 public:
  Sizes sizes;
  std::vector<Monomial> monomial;
  std::vector<const std::vector<Term<T>>*> contractions;
  int n_monomials, n_features, bases, channels;  // bases, channels: padded lengths of rows
  T cutoff, eta;
  const T *centres, *outer, *strength, *inverse_length;  // (bases), and three times (elements, elements)
  std::vector<const T*> mix, unmix;                       // per degree: (elements, radial, channels), (elements, channels, bases)
  std::vector<Net<T>> nets;

  const T* numbers;

  Model(Sizes chosen, const T* all) : sizes(std::move(chosen)), monomial(monomials(sizes.order)), numbers(all) {
    n_monomials = int(monomial.size());
    for (const auto& degrees : sizes.contractions) contractions.push_back(&contraction<T>(degrees));
    n_features = sizes.channels * (1 + sizes.order + int(contractions.size()));
    bases = padded(sizes.radial), channels = padded(sizes.channels);
    const T* at = numbers;
    auto take = [&at](int n) { return std::exchange(at, at + padded(n)); };
    const int t = sizes.elements;
    const T* head = take(2);
    cutoff = head[0], eta = head[1];
    centres = take(bases);
    outer = take(t * t), strength = take(t * t), inverse_length = take(t * t);
    for (int p = 0; p <= sizes.order; ++p) {
      mix.push_back(take(t * sizes.radial * channels));
      unmix.push_back(take(t * sizes.channels * bases));
    }
    for (int s = 0; s < t; ++s) {
      Net<T> net;
      const T* three = take(3);
      net.shift = three[0], net.scale = three[1], net.offset = three[2], net.offset_at = three + 2 - numbers;
      net.mean = take(n_features), net.inverse_std = take(n_features);
      int in = n_features;
      for (int out : sizes.widths) {
        const T *weight = take(in * padded(out)), *bias = take(out);
        net.layers.push_back({in, out, weight, bias, take(out * padded(in))});
        in = out;
      }
      net.last = take(in);
      nets.push_back(std::move(net));
    }
    length = size_t(at - numbers);
  }
  size_t length;  // numbers read
  int widest() const {
    int w = n_features;
    for (int x : sizes.widths) w = std::max(w, x);
    return padded(w);
  }
};

// ------------------------------------------------------------------------------------------------------- atoms of a block

template <class T> class Block {
 public:
  struct Section {
    int element, first, count, room;  // room: count rounded up to whole vectors
  };
  Array<T> x, y, z, gx, gy, gz, energy, virial;  // Å, eV/Å, eV, eV (xx yy zz yz xz xy)
  Array<int32_t> tag;
  std::vector<Section> sections;
  std::vector<size_t> begins;  // first section of every atom

  int atoms() const { return int(begins.size()); }
  void clear() { sections.clear(), begins.clear(), next_ = 0; }
  void begin_atom(int most) { close(), begins.push_back(sections.size()), most_ = most; }
  void section(int element) {
    close(), sections.push_back({element, next_, 0, 0});
    const size_t room = size_t(next_) + most_ + 2 * kPad;
    x.need(room), y.need(room), z.need(room), tag.need(room);
  }
  void add(T dx, T dy, T dz, int32_t which, bool wanted = true) {  // unwanted neighbours are overwritten by the next
    x[next_] = dx, y[next_] = dy, z[next_] = dz, tag[next_] = which;
    next_ += wanted;
  }
  void close() {  // pad the open section with atoms that are too far away to matter
    if (sections.empty() || sections.back().room) return;
    Section& s = sections.back();
    s.count = next_ - s.first;
    if (!s.count) {
      sections.pop_back();
      return;
    }
    s.room = (s.count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    for (; next_ < s.first + s.room; ++next_) x[next_] = T(kFar), y[next_] = z[next_] = T(0), tag[next_] = -1;
  }
  size_t last_section(int a) const { return size_t(a) + 1 < begins.size() ? begins[a + 1] : sections.size(); }
  int first(int a) const { return begins[a] < sections.size() ? sections[begins[a]].first : next_; }
  int last(int a) const { return last_section(a) < sections.size() ? sections[last_section(a)].first : next_; }
  int size() const { return next_; }

  // scratch of `evaluate`
  Array<T> ux, uy, uz, r, inverse, f, df, gaussians, turned, monomial, sums, tensors, back, h, d;
  Array<T> features, slope, up, net;
  static constexpr double kFar = 1e3;

 private:
  int next_ = 0, most_ = 0;
};

// ------------------------------------------------------------------------------------------------------------- arithmetic

// u³(−6u² + 15u − 10) + 1 and its derivative to u
template <class T> inline std::pair<T, T> step_down(T u) {
  u = u < T(0) ? T(0) : u > T(1) ? T(1) : u;
  return {u * u * u * (u * (T(15) - T(6) * u) - T(10)) + T(1), T(-30) * u * u * (T(1) - u) * (T(1) - u)};
}

// Unit vectors, distances, cutoff and its slope of all neighbours of the block.
template <class T> void distances(const Model<T>& m, Block<T>& b) {
  const int n = b.size();
  T *ux = b.ux.need(n), *uy = b.uy.need(n), *uz = b.uz.need(n), *r = b.r.need(n), *inverse = b.inverse.need(n);
  T *f = b.f.need(n), *df = b.df.need(n);
  const T *x = b.x.get(), *y = b.y.get(), *z = b.z.get(), per = T(1) / m.cutoff;
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    const T square = x[j] * x[j] + y[j] * y[j] + z[j] * z[j];
    const T length = square <= T(1e-12) ? T(1e-6) : std::sqrt(square), over = T(1) / length;
    r[j] = length, inverse[j] = over;
    ux[j] = x[j] * over, uy[j] = y[j] * over, uz[j] = z[j] * over;
    const auto [value, slope] = step_down(length * per);
    f[j] = value, df[j] = slope * per;
  }
}

// Rows of numbers `ld` apart, some at a time; moments_training.hpp has the same with numbers that carry a rate of change.
template <class T> struct Rows {
  T* at;
  int ld;
  V<T> operator()(int n, int k) const { return load(at + n * ld + k); }
  void put(int n, int k, V<T> x) const { store(at + n * ld + k, x); }
};

// The next degree of monomials from the last, `low`, of degree p, both (rows, some neighbours), with unit vector (x, y, z).
template <class N, class Source, class Target> void raise(int p, const N& x, const N& y, const N& z, const Source& low, const Target& to) {
  const int n = (p + 1) * (p + 2) / 2;
  int next = 0;
  for (int i = 0; i < n; ++i) to.put(next++, 0, x * low(i, 0));
  for (int i = n - p - 1; i < n; ++i) to.put(next++, 0, y * low(i, 0));
  to.put(next, 0, z * low(n - 1, 0));
}

// Monomials of some neighbours, rows `room` apart, the first of degree 0 being `start` (1 or the cutoff) of each.
template <class T> void powers(const Model<T>& m, const Block<T>& b, int first, int room, const T* start, T* out) {
  for (int j = 0; j < room; j += kLanes<T>) {
    const V<T> x = load(b.ux.get() + first + j), y = load(b.uy.get() + first + j), z = load(b.uz.get() + first + j);
    Rows<T> low{out + j, room};
    low.put(0, 0, start ? load(start + j) : all<T>(1));
    for (int p = 0; p < m.sizes.order; ++p) {
      const Rows<T> next{low.at + (p + 1) * (p + 2) / 2 * room, room};
      raise(p, x, y, z, low, next);
      low = next;
    }
  }
}

constexpr int kMostMonomials = 84;  // order 6

// Invariants of the tensors of one atom, not standardised: out.put(0, feature, …).
template <class N, class T, class Source, class Target>
void invariants(const Model<T>& m, const Source& tensors, const Target& out) {
  // whole vectors are written, feature after feature: what stands beyond the last channel of one is overwritten by the next
  const int c = m.sizes.channels;
  for (int to = 0, p = 0, n = 0; p <= m.sizes.order; ++p, to += c) {
    const int stop = n + (p + 1) * (p + 2) / 2;
    for (int k = 0; k < c; k += kLanes<T>) {
      N total = tensors(n, k);
      if (p) total = total * total * T(m.monomial[n].multiplicity);
      for (int i = n + 1; i < stop; ++i) {
        const N t = tensors(i, k);
        total = total + t * t * T(m.monomial[i].multiplicity);
      }
      out.put(0, to + k, total);
    }
    n = stop;
  }
  for (size_t x = 0; x < m.contractions.size(); ++x)
    for (int k = 0; k < c; k += kLanes<T>) {
      N total{};
      for (const Term<T>& t : *m.contractions[x]) total = total + tensors(t.i, k) * tensors(t.j, k) * (tensors(t.k, k) * t.factor);
      out.put(0, c * (m.sizes.order + 1 + int(x)) + k, total);
    }
}

// The way back: gradients to the features, g(0, feature), become gradients to the tensors, back.put(monomial, channel, …).
template <class N, class T, class Source, class Gradient, class Target>
void invariants_back(const Model<T>& m, const Source& tensors, const Gradient& g, const Target& back) {
  const int c = m.sizes.channels;
  N own[kMostMonomials], to[kMostMonomials];
  for (int k = 0; k < c; k += kLanes<T>) {
    for (int n = 0; n < m.n_monomials; ++n) {
      own[n] = tensors(n, k);
      const N slope = g(0, m.monomial[n].degree * c + k);
      to[n] = n ? slope * own[n] * T(2 * m.monomial[n].multiplicity) : slope;
    }
    for (size_t x = 0; x < m.contractions.size(); ++x) {
      const N slope = g(0, c * (m.sizes.order + 1 + int(x)) + k);
      for (const Term<T>& t : *m.contractions[x]) {
        const N some = slope * t.factor, first = some * own[t.i], two = own[t.j], three = own[t.k];
        to[t.i] = to[t.i] + some * (two * three);
        to[t.j] = to[t.j] + first * three;
        to[t.k] = to[t.k] + first * two;
      }
    }
    for (int n = 0; n < m.n_monomials; ++n) back.put(n, k, to[n]);
  }
}

// An activation with its first and second derivative.
template <class T> struct Response {
  V<T> y, d, dd;
};

template <class T> inline Response<T> respond(int kind, V<T> v) {
  if (kind == kSilu) {
    const V<T> s = T(1) / (T(1) + exp<T>(-v)), y = v * s, d = s + y * (T(1) - s);
    return {y, d, (T(1) - s) * (s * (T(1) - y) + d)};
  }
  if (kind == kSoftplus) {
    const V<T> size = v < T(0) ? -v : v, e = exp<T>(-size), d = (v < T(0) ? e : all<T>(1)) / (T(1) + e);
    V<T> y;
    for (int k = 0; k < kLanes<T>; ++k) y[k] = std::log1p(e[k]) + (v[k] > T(0) ? v[k] : T(0));
    return {y, d, d * (T(1) - d)};
  }
  constexpr T root = T(0.79788456080286535588), cubic = T(0.044715);
  const V<T> u = kind == kGelu ? root * (v + cubic * v * v * v) : v, size = u < T(0) ? -u : u, e = exp<T>(T(-2) * size);
  const V<T> positive = (T(1) - e) / (T(1) + e), t = u < T(0) ? -positive : positive, rest = T(1) - t * t;
  if (kind == kTanh) return {t, rest, T(-2) * t * rest};
  const V<T> du = root * (T(1) + T(3) * cubic * v * v), dt = rest * du, ddt = T(6) * root * cubic * v * rest - T(2) * t * dt * du;
  return {T(0.5) * v * (T(1) + t), T(0.5) * (T(1) + t) + T(0.5) * v * dt, dt + T(0.5) * v * ddt};
}

// y = activation(x) and its slope, in place for x.
template <class T> inline void activate(int kind, T* x, T* slope, int n) {
  for (int i = 0; i < n; i += kLanes<T>) {
    const Response<T> r = respond<T>(kind, load(x + i));
    store(x + i, r.y), store(slope + i, r.d);
  }
}

// The network of one element on n standardised descriptors: b.net (n), and its gradient in place of b.features.
template <class T> void network(const Model<T>& m, const Net<T>& net, Block<T>& b, int n) {
  const int ld = m.widest();
  T *value = b.features.get(), *next = b.up.need(size_t(n) * ld + kPad), *out = b.net.need(n);
  T* slope = b.slope.need(net.layers.size() * size_t(n) * ld);
  for (const Layer<T>& l : net.layers) {
    const int wide = padded(l.out);
    Product<T>{value, ld, 1, l.weight, wide, next, ld, l.in, false, l.bias}.run(n, l.out);
    for (int a = 0; a < n; ++a) {
      T *y = next + a * ld, *x = value + a * ld;
      activate(m.sizes.activation, y, slope + a * ld, wide);
      if (l.out == l.in || l.out == 2 * l.in)
        for (int k = 0; k < l.in; ++k) y[k] += x[k];
      if (l.out == 2 * l.in)
        for (int k = 0; k < l.in; ++k) y[l.in + k] += x[k];
    }
    std::swap(value, next), slope += size_t(n) * ld;
  }
  const int last = net.layers.empty() ? m.n_features : net.layers.back().out;
  for (int a = 0; a < n; ++a) {
    V<T> s{};
    int k = 0;
    for (; k + kLanes<T> <= last; k += kLanes<T>) s += load(value + a * ld + k) * load(net.last + k);
    T total = sum<T>(s) + net.offset;
    for (; k < last; ++k) total += value[a * ld + k] * net.last[k];
    out[a] = total;
    std::copy(net.last, net.last + last, value + a * ld);
  }
  for (auto l = net.layers.rbegin(); l != net.layers.rend(); ++l) {
    slope -= size_t(n) * ld;
    const bool same = l->out == l->in, twice = l->out == 2 * l->in;
    for (int a = 0; a < n; ++a) {
      T *g = value + a * ld, *to = next + a * ld, *d = slope + a * ld;
      if (same || twice)
        for (int k = 0; k < l->in; ++k) to[k] = g[k] + (twice ? g[l->in + k] : T(0));
      for (int k = 0; k < l->out; ++k) g[k] *= d[k];
    }
    Product<T>{value, ld, 1, l->turned, padded(l->in), next, ld, l->out, same || twice}.run(n, l->in);
    std::swap(value, next);
  }
  if (value != b.features.get()) std::copy(value, value + size_t(n) * ld, b.features.get());
}

// Screened nuclear repulsion (Ziegler, Biersack, Littmark) with its slope; the constants of potential/pairwise.py.
template <class T> inline std::pair<T, T> zbl(T r, T strength, T inverse_length) {
  constexpr double amplitude[] = {0.18175, 0.50986, 0.28022, 0.02817}, decay[] = {3.19980, 0.94229, 0.40290, 0.20162};
  T value = 0, slope = 0;
  for (int k = 0; k < 4; ++k) {
    const T term = T(amplitude[k]) * std::exp(-T(decay[k]) * r * inverse_length);
    value += term, slope -= T(decay[k]) * inverse_length * term;
  }
  return {strength * value / r, strength * (slope / r - value / (r * r))};
}

// What multiplies the network of atom a and what is added: E = rim · damp · network + repulsion (potential/model.py).
template <class T> struct Envelope {
  T rim = 1, rim_slope = 0, damp = 1, repulsion = 0;  // rim_slope: of rim to the sum of cutoffs
};

template <class T> Envelope<T> envelope(const Model<T>& m, const Block<T>& b, int a, int element) {
  Envelope<T> e;
  T total = 0, crowd = 0;
  for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
    const auto& s = b.sections[q];
    for (int j = s.first; j < s.first + s.count; ++j) total += b.f[j];
    if (!m.sizes.repulsion) continue;
    const int pair = element * m.sizes.elements + s.element;
    const T outer = m.outer[pair], inner = T(0.7) * outer;
    for (int j = s.first; j < s.first + s.count; ++j) {
      if (b.r[j] >= outer) continue;
      const T x = (outer - b.r[j]) / (T(0.3) * outer);
      crowd += x * x * x;
      e.repulsion += T(0.5) * zbl(b.r[j], m.strength[pair], m.inverse_length[pair]).first *
                     step_down((b.r[j] - inner) / (outer - inner)).first;
    }
  }
  if (m.sizes.isolated_limit) e.rim = -std::expm1(T(-8) * total), e.rim_slope = T(8) * std::exp(T(-8) * total);
  e.damp = std::exp(T(-7) * crowd);
  return e;
}

// d(repulsion)/dr and d(damp)/dr of the few neighbours that are closer than the data ever showed: added along the unit vector.
template <class T>
void envelope_back(const Model<T>& m, Block<T>& b, const typename Block<T>::Section& s, int element, T damped) {
  const int pair = element * m.sizes.elements + s.element;
  const T outer = m.outer[pair], inner = T(0.7) * outer;
  for (int j = s.first; j < s.first + s.count; ++j) {
    if (b.r[j] >= outer) continue;
    const T x = (outer - b.r[j]) / (T(0.3) * outer);
    const auto [value, slope] = zbl(b.r[j], m.strength[pair], m.inverse_length[pair]);
    const auto [w, dw] = step_down((b.r[j] - inner) / (outer - inner));
    const T g = damped * T(21) * x * x / (T(0.3) * outer) + T(0.5) * (slope * w + value * dw / (outer - inner));
    b.gx[j] += g * b.ux[j], b.gy[j] += g * b.uy[j], b.gz[j] += g * b.uz[j];
  }
}

// Sums over the neighbours of atom a, mixed: `tensors` (monomials, channels). Gaussians are kept for the way back.
template <class T> void tensors(const Model<T>& m, Block<T>& b, int a, T* out) {
  const int radial = m.sizes.radial, n = m.n_monomials;
  if (b.begins[a] == b.last_section(a)) std::fill(out, out + n * m.channels, T(0));
  T* sums = b.sums.need(n * m.bases);
  for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
    const auto& s = b.sections[q];
    T *y = b.monomial.need(n * s.room), *turned = b.turned.need(s.room * m.bases), *g = b.gaussians.get() + s.first * radial;
    powers(m, b, s.first, s.room, b.f.get() + s.first, y);
    for (int k = 0; k < radial; ++k)
      for (int j = 0; j < s.room; j += kLanes<T>) {
        const V<T> x = load(b.r.get() + s.first + j) - m.centres[k];
        store(g + k * s.room + j, exp<T>(-m.eta * x * x));
      }
    for (int j = 0; j < s.count; ++j)
      for (int k = 0; k < radial; ++k) turned[j * m.bases + k] = g[k * s.room + j];
    Product<T>{y, s.room, 1, turned, m.bases, sums, m.bases, s.count}.run(n, radial);
    for (int p = 0, low = 0, count = 1; p <= m.sizes.order; low += count, ++p, count = (p + 1) * (p + 2) / 2)
      Product<T>{sums + low * m.bases, m.bases, 1, m.mix[p] + s.element * radial * m.channels, m.channels,
                 out + low * m.channels, m.channels, radial, q > b.begins[a]}
          .run(count, m.sizes.channels);
  }
}

template <class T> inline void pass_on(const T* own, T* parent, const T* power, V<T> u, V<T>& g) {
  const V<T> d = load(own);
  store(parent, load(parent) + d * u);
  g += d * load(power);
}

// Gradients to the neighbours of atom a in b.gx, b.gy, b.gz, from those to its tensors; rim: of the energy to the sum of cutoffs.
template <class T> void tensors_back(const Model<T>& m, Block<T>& b, int a, const T* back, T rim) {
  const int radial = m.sizes.radial, n = m.n_monomials;
  T* sums = b.sums.get();
  for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
    const auto& s = b.sections[q];
    for (int p = 0, low = 0, count = 1; p <= m.sizes.order; low += count, ++p, count = (p + 1) * (p + 2) / 2)
      Product<T>{back + low * m.channels, m.channels, 1, m.unmix[p] + s.element * m.sizes.channels * m.bases, m.bases,
                 sums + low * m.bases, m.bases, m.sizes.channels}
          .run(count, radial);
    T *y = b.monomial.need(n * s.room), *h = b.h.need(radial * s.room), *d = b.d.need(n * s.room);
    const T* g = b.gaussians.get() + s.first * radial;
    powers<T>(m, b, s.first, s.room, nullptr, y);
    Product<T>{sums, 1, m.bases, y, s.room, h, s.room, n}.run(radial, s.room);   // Σ_m A_mb y_m(j)
    Product<T>{sums, m.bases, 1, g, s.room, d, s.room, radial}.run(n, s.room);   // Σ_b A_mb g_b(j)
    for (int j = 0; j < s.room; j += kLanes<T>) {
      const int at = s.first + j;
      const V<T> r = load(b.r.get() + at), f = load(b.f.get() + at), df = load(b.df.get() + at);
      const V<T> ux = load(b.ux.get() + at), uy = load(b.uy.get() + at), uz = load(b.uz.get() + at);
      V<T> whole = all<T>(rim), slope{}, gx{}, gy{}, gz{};
      for (int k = 0; k < radial; ++k) {
        const V<T> part = load(g + k * s.room + j) * load(h + k * s.room + j);
        whole += part, slope += part * (r - m.centres[k]);
      }
      const V<T> along = df * whole - T(2) * m.eta * f * slope;
      // `powers` backwards: what a monomial got goes on to the one it was made of, and to the component it was made with
      for (int p = m.sizes.order - 1, next = n; p >= 0; --p) {
        const int count = (p + 1) * (p + 2) / 2;
        next -= count + p + 2;
        T *low = d + (next - count) * s.room + j, *own = d + next * s.room + j;
        const T* power = y + (next - count) * s.room + j;
        for (int i = 0; i < count; ++i, own += s.room) pass_on(own, low + i * s.room, power + i * s.room, ux, gx);
        for (int i = count - p - 1; i < count; ++i, own += s.room) pass_on(own, low + i * s.room, power + i * s.room, uy, gy);
        pass_on(own, low + (count - 1) * s.room, power + (count - 1) * s.room, uz, gz);
      }
      const V<T> inverse = f * load(b.inverse.get() + at);
      const V<T> dot = along - inverse * (gx * ux + gy * uy + gz * uz);
      store(b.gx.get() + at, gx * inverse + dot * ux);
      store(b.gy.get() + at, gy * inverse + dot * uy);
      store(b.gz.get() + at, gz * inverse + dot * uz);
    }
  }
}

// Energies, gradients to all vectors and virials (Σ vector ⊗ gradient, symmetrised) of the atoms of the block, all of one element.
template <class T> void evaluate(const Model<T>& m, int element, Block<T>& b) {
  b.close();
  const int n = b.atoms(), size = b.size(), ld = m.widest(), tensor = m.n_monomials * m.channels;
  const Net<T>& net = m.nets[element];
  distances(m, b);
  b.gaussians.need(size_t(size) * m.sizes.radial), b.gx.need(size), b.gy.need(size), b.gz.need(size);
  T *held = b.tensors.need(size_t(n) * tensor), *features = b.features.need(size_t(n) * ld + kPad), *back = b.back.need(tensor);
  for (int a = 0; a < n; ++a) {
    T *own = held + a * tensor, *row = features + a * ld;
    tensors(m, b, a, own);
    invariants<V<T>>(m, Rows<T>{own, m.channels}, Rows<T>{row, 0});
    for (int k = 0; k < m.n_features; ++k) row[k] = (row[k] - net.mean[k]) * net.inverse_std[k];
  }
  network(m, net, b, n);
  T *energy = b.energy.need(n), *virial = b.virial.need(6 * n);
  for (int a = 0; a < n; ++a) {
    const Envelope<T> e = envelope(m, b, a, element);
    const T value = net.shift + net.scale * b.net[a], factor = e.rim * e.damp * net.scale;
    energy[a] = value * e.rim * e.damp + e.repulsion;
    T* row = features + a * ld;
    for (int k = 0; k < m.n_features; ++k) row[k] *= factor * net.inverse_std[k];
    invariants_back<V<T>>(m, Rows<T>{held + a * tensor, m.channels}, Rows<T>{row, 0}, Rows<T>{back, m.channels});
    tensors_back(m, b, a, back, value * e.damp * e.rim_slope);
    V<T> w[6] = {};
    for (size_t q = b.begins[a]; q < b.last_section(a); ++q) {
      const auto& s = b.sections[q];
      if (m.sizes.repulsion) envelope_back(m, b, s, element, value * e.rim * e.damp);
      for (int j = s.first; j < s.first + s.room; j += kLanes<T>) {
        const V<T> x = load(b.x.get() + j), y = load(b.y.get() + j), z = load(b.z.get() + j);
        const V<T> gx = load(b.gx.get() + j), gy = load(b.gy.get() + j), gz = load(b.gz.get() + j);
        w[0] += x * gx, w[1] += y * gy, w[2] += z * gz;
        w[3] += T(0.5) * (y * gz + z * gy), w[4] += T(0.5) * (x * gz + z * gx), w[5] += T(0.5) * (x * gy + y * gx);
      }
    }
    for (int k = 0; k < 6; ++k) virial[6 * a + k] = sum<T>(w[k]);
  }
}

}  // namespace adatom
