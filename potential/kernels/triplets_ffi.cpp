// Angular symmetry functions of n2p2 (Gaussian ones, integer zeta) and their gradients, as two custom calls of XLA.
//
//     G_q = Σ_j<k e(q) a(q),   e = g_s(r_j) g_s(r_k) [h_s(r_jk)],   a = 2 (½ + ½ λ cos θ)^ζ,   g, h = exp(−η (r − r_s)²) f_c(r)
//
// (potential/interop/n2p2/triplets.py). Functions share envelopes e and angular parts a, as there; of an atom's neighbours only those
// inside the cutoff are looked at, each pair once, k along a vector. `forward` is G (n, functions) from vectors (3, n, k) and
// `backward` the gradient (3, n, k) from that with respect to G.

#include "moments.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using adatom::all;
using adatom::Array;
using adatom::kLanes;
using adatom::load;
using adatom::store;
using adatom::sum;
using adatom::V;

enum Kind { kHard, kCos, kTanhu, kTanh, kExp, kPoly1, kPoly2, kPoly3, kPoly4 };

template <class T> struct Value {
  V<T> value, slope;
};

template <class T> inline V<T> root(V<T> x) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

struct Shell {
  double eta, shift, cutoff;
};
struct Envelope {
  int shell, narrow;
};
struct Angle {
  double sign;
  int zeta;
};
struct Function {
  int envelope, angle;
};

// What the attributes say: counts, columns of the two elements, and which function is made of what.
struct Spec {
  int kind, t0, t1, u0, u1;
  double alpha, cutoff = 0.0;
  std::vector<Shell> shells;
  std::vector<Envelope> envelopes;
  std::vector<Angle> angles;
  std::vector<Function> functions;

  Spec(ffi::Span<const int64_t> n, ffi::Span<const double> x) : kind(n[0]), t0(n[1]), t1(n[2]), u0(n[3]), u1(n[4]), alpha(x[0]) {
    const double* y = x.begin() + 1;
    const int64_t* m = n.begin() + 9;
    for (int k = 0; k < n[5]; ++k, y += 3) shells.push_back({y[0], y[1], y[2]}), cutoff = std::max(cutoff, y[2]);
    for (int k = 0; k < n[6]; ++k, m += 2) envelopes.push_back({int(m[0]), int(m[1])});
    for (int k = 0; k < n[7]; ++k, y += 2) angles.push_back({y[0], int(y[1])});
    for (int k = 0; k < n[8]; ++k, m += 2) functions.push_back({int(m[0]), int(m[1])});
  }
  bool same() const { return t0 == u0; }
};

// f_c and its derivative; the formulas of potential/interop/n2p2/cutoffs.py.
template <class T> inline Value<T> cutoff_function(const Spec& m, double cutoff, V<T> r) {
  const V<T> zero{}, one = all<T>(1);
  const T rc = T(cutoff);
  const auto inside = r < rc;
  if (m.kind == kHard) return {inside ? one : zero, zero};
  if (m.kind == kTanhu || m.kind == kTanh) {
    const V<T> y = inside ? one - r / rc : zero, e = adatom::exp<T>(T(-2) * y), t = (one - e) / (one + e);
    const T scale = m.kind == kTanh ? T(std::pow(std::tanh(1.0), -3)) : T(1);
    return {scale * t * t * t, scale * T(-3) / rc * t * t * (one - t * t)};
  }
  const T inner = T(m.alpha * cutoff), inverse = T(1.0 / ((1.0 - m.alpha) * cutoff));
  V<T> x = (r - inner) * inverse;
  const auto rising = (x > T(0)) & inside;
  x = x > T(0) ? x : zero;
  x = inside ? x : one;
  V<T> f, d;
  if (m.kind == kCos) {  // sin²(π (1 − x)/2), by the power series of the sine and its derivative
    constexpr int terms = sizeof(T) == 4 ? 7 : 11;
    static constexpr double sine[] = {1.5707963267948966, -0.6459640975062462, 0.07969262624616703, -0.004681754135318687,
                                      0.00016044118478735975, -3.598843235212084e-06, 5.692172921967924e-08, -6.688035109811464e-10,
                                      6.066935731106192e-12, -4.377065467313739e-14, 2.571422892860472e-16};
    const V<T> y = one - x, z = y * y;
    V<T> s{}, c{};
#pragma GCC unroll 16
    for (int k = terms - 1; k >= 0; --k) s = s * z + T(sine[k]), c = c * z + T((2 * k + 1) * sine[k]);
    f = z * s * s, d = T(-2) * y * s * c;
  } else if (m.kind == kExp) {
    const auto near = x * x < T(1.0 - 1e-3);
    const V<T> w = one / (one - (near ? x * x : zero));
    f = near ? adatom::exp<T>(one - w) : zero;
    d = T(-2) * x * w * w * f;
  } else {  // (1 − x)^k Σ_j C(k − 1 + j, j) x^j, with the derivative −K x^(k−1) (1 − x)^(k−1)
    static constexpr double binomial[4][5] = {{1, 2}, {1, 3, 6}, {1, 4, 10, 20}, {1, 5, 15, 35, 70}}, slope[] = {6, 30, 140, 630};
    const int k = m.kind - kPoly1 + 2;
    V<T> p{}, y = one, w = one;
    for (int j = k - 1; j >= 0; --j) p = p * x + T(binomial[k - 2][j]);
    for (int j = 0; j < k - 1; ++j) y *= one - x, w *= x;
    f = p * y * (one - x), d = T(-slope[k - 2]) * w * y;
  }
  return {f, rising ? d * inverse : zero};
}

template <class T> inline Value<T> radial(const Spec& m, const Shell& s, V<T> r, const Value<T>& f) {
  const V<T> x = r - T(s.shift), e = adatom::exp<T>(T(-s.eta) * x * x);
  return {e * f.value, e * (f.slope - T(2.0 * s.eta) * x * f.value)};
}

template <class T> inline Value<T> angular(const Angle& a, V<T> cosine) {
  V<T> half = T(0.5) + T(0.5 * a.sign) * cosine;
  half = half > T(0) ? half : V<T>{};
  V<T> power = all<T>(1), square = half;
  for (int z = a.zeta - 1; z > 0; z >>= 1, square *= square)
    if (z & 1) power *= square;
  return {T(2) * power * half, T(a.sign * a.zeta) * power};
}

// Neighbours of one element inside the cutoff, each quantity in a row of its own, padded with ones far away to whole vectors.
template <class T> struct Near {
  Array<T> data;
  std::vector<int> slot;
  int count = 0, room = 0, shells = 0;

  T* row(int k) const { return data.get() + size_t(k) * room; }
  T *x() const { return row(0); }
  T *y() const { return row(1); }
  T *z() const { return row(2); }
  T *r() const { return row(3); }
  T *gradient(int c) const { return row(4 + c); }
  T *g(int s) const { return row(7 + 2 * s); }
  T *dg(int s) const { return row(8 + 2 * s); }

  void collect(const Spec& m, const T* vectors, int64_t plane, int from, int to) {
    slot.clear();
    const T rc = T(m.cutoff);
    for (int k = from; k < to; ++k) {
      const T a = vectors[k], b = vectors[plane + k], c = vectors[2 * plane + k];
      if (!(a * a + b * b + c * c >= rc * rc)) slot.push_back(k);  // not a number goes in, to be seen
    }
    constexpr int w = kLanes<T>;
    count = int(slot.size()), room = (count + w - 1) / w * w, shells = int(m.shells.size());
    data.need(size_t(room) * (7 + 2 * shells));
    for (int q = 0; q < room; ++q) {
      const bool real = q < count;
      x()[q] = real ? vectors[slot[q]] : T(2) * rc;
      y()[q] = real ? vectors[plane + slot[q]] : T(0);
      z()[q] = real ? vectors[2 * plane + slot[q]] : T(0);
    }
    for (int q = 0; q < room; q += w) {
      const V<T> a = load(x() + q), b = load(y() + q), c = load(z() + q), square = a * a + b * b + c * c;
      const V<T> r = root<T>(square > T(1e-12) ? square : all<T>(1e-12));
      store(this->r() + q, r);
      for (int k = 0; k < 3; ++k) store(gradient(k) + q, V<T>{});
      for (int s = 0; s < shells; ++s) {
        const Value<T> v = radial<T>(m, m.shells[s], r, cutoff_function<T>(m, m.shells[s].cutoff, r));
        store(g(s) + q, v.value), store(dg(s) + q, v.slope);
      }
    }
  }

  void scatter(T* out, int64_t plane) const {
    for (int q = 0; q < count; ++q)
      for (int c = 0; c < 3; ++c) out[c * plane + slot[q]] = gradient(c)[q];
  }
};

// All pairs of one atom. With `weights` (functions) the gradients are added to those of the neighbours; without, G to `out`.
template <class T> struct Pairs {
  const Spec& m;
  Near<T>*first, *second;
  std::vector<Value<T>> e, h, a;
  std::vector<V<T>> total, x;

  explicit Pairs(const Spec& spec) : m(spec), first(nullptr), second(nullptr) {
    e.resize(m.envelopes.size()), x.resize(m.envelopes.size()), h.resize(m.shells.size()), a.resize(m.angles.size());
    total.resize(m.functions.size());
  }

  template <bool back> void run(const T* weights, T* out) {
    constexpr int w = kLanes<T>;
    V<T> lane;
    for (int i = 0; i < w; ++i) lane[i] = T(i);
    std::fill(total.begin(), total.end(), V<T>{});
    bool narrow = true;
    for (const auto& envelope : m.envelopes) narrow = narrow && envelope.narrow;
    for (int j = 0; j < first->count; ++j) {
      const T xj = first->x()[j], yj = first->y()[j], zj = first->z()[j], rj = first->r()[j], inverse_j = T(1) / rj;
      V<T> along{}, turn{}, tx{}, ty{}, tz{}, sx{}, sy{}, sz{};  // of j: dE/dr_j, Σ c cos θ, Σ c û_k, Σ dE/dr_jk d̂
      for (int k = m.same() ? (j + 1) / w * w : 0; k < second->count; k += w) {
        const V<T> xk = load(second->x() + k), yk = load(second->y() + k), zk = load(second->z() + k), rk = load(second->r() + k);
        const V<T> dx = xk - xj, dy = yk - yj, dz = zk - zj, square = dx * dx + dy * dy + dz * dz;
        const V<T> d = root<T>(square > T(1e-12) ? square : all<T>(1e-12));
        V<T> once = all<T>(1);
        if (m.same()) once = (lane + T(k)) > T(j) ? once : V<T>{};
        if (narrow) {
          bool any = false;
          for (int i = 0; i < w; ++i) any |= d[i] < T(m.cutoff) && once[i] > T(0);
          if (!any) continue;
        }
        const V<T> inverse_k = T(1) / rk, cosine = (xk * xj + yk * yj + zk * zj) * (inverse_k * inverse_j);
        double known = -1.0;
        Value<T> f{};
        for (size_t s = 0; s < m.shells.size(); ++s) {
          bool wanted = false;
          for (const auto& envelope : m.envelopes) wanted |= envelope.narrow && envelope.shell == int(s);
          if (!wanted) continue;
          if (m.shells[s].cutoff != known) known = m.shells[s].cutoff, f = cutoff_function<T>(m, known, d);
          h[s] = radial<T>(m, m.shells[s], d, f);
        }
        for (size_t q = 0; q < a.size(); ++q) a[q] = angular<T>(m.angles[q], cosine);
        for (size_t q = 0; q < e.size(); ++q) {
          const auto [s, far] = m.envelopes[q];
          const V<T> g = first->g(s)[j] * load(second->g(s) + k) * once;
          e[q].value = far ? g * h[s].value : g;
          if (back) x[q] = V<T>{};
        }
        if (!back) {
          for (size_t q = 0; q < m.functions.size(); ++q)
            total[q] += e[m.functions[q].envelope].value * a[m.functions[q].angle].value;
          continue;
        }
        V<T> c{}, cj{}, ck{}, cd{};  // gradients to cos θ, r_j, r_k, r_jk
        for (size_t q = 0; q < m.functions.size(); ++q) {
          const auto [u, v] = m.functions[q];
          x[u] += weights[q] * a[v].value;
          c += (weights[q] * e[u].value) * a[v].slope;
        }
        for (size_t q = 0; q < e.size(); ++q) {
          const auto [s, far] = m.envelopes[q];
          const V<T> own = x[q] * once, other = far ? own * h[s].value : own, gk = load(second->g(s) + k);
          cj += other * gk * first->dg(s)[j];
          ck += other * load(second->dg(s) + k) * first->g(s)[j];
          if (far) cd += own * h[s].slope * gk * first->g(s)[j];
        }
        const V<T> ux = xk * inverse_k, uy = yk * inverse_k, uz = zk * inverse_k, over = cd / d;
        const V<T> radius = (ck - c * cosine * inverse_k), side = c * inverse_k * inverse_j;
        store(second->gradient(0) + k, load(second->gradient(0) + k) + radius * ux + side * xj + over * dx);
        store(second->gradient(1) + k, load(second->gradient(1) + k) + radius * uy + side * yj + over * dy);
        store(second->gradient(2) + k, load(second->gradient(2) + k) + radius * uz + side * zj + over * dz);
        along += cj, turn += c * cosine;
        tx += c * ux, ty += c * uy, tz += c * uz;
        sx += over * dx, sy += over * dy, sz += over * dz;
      }
      if (back) {
        const T radius = (sum<T>(along) - sum<T>(turn) * inverse_j) * inverse_j;
        first->gradient(0)[j] += radius * xj + sum<T>(tx) * inverse_j - sum<T>(sx);
        first->gradient(1)[j] += radius * yj + sum<T>(ty) * inverse_j - sum<T>(sy);
        first->gradient(2)[j] += radius * zj + sum<T>(tz) * inverse_j - sum<T>(sz);
      }
    }
    if (!back)
      for (size_t q = 0; q < total.size(); ++q) out[q] = sum<T>(total[q]);
  }
};

template <bool back, ffi::DataType D, class T>
ffi::Error call(ffi::Buffer<D> vectors, ffi::Buffer<D> weights, ffi::ResultBuffer<D> out, ffi::Span<const int64_t> counts,
                ffi::Span<const double> numbers) {
  const Spec m(counts, numbers);
  const int64_t n = vectors.dimensions()[1], slots = vectors.dimensions()[2], plane = n * slots, q = int64_t(m.functions.size());
  if (int64_t(weights.element_count()) != (back ? n * q : 0)) return ffi::Error::InvalidArgument("triplets: weights of another size");
  if (back) std::fill(out->typed_data(), out->typed_data() + 3 * plane, T(0));
  Near<T> first, second;
  Pairs<T> pairs(m);
  pairs.first = &first, pairs.second = m.same() ? &first : &second;
  for (int64_t i = 0; i < n; ++i) {
    const T* own = vectors.typed_data() + i * slots;
    first.collect(m, own, plane, m.t0, m.t1);
    if (!m.same()) second.collect(m, own, plane, m.u0, m.u1);
    if (back) {
      pairs.template run<true>(weights.typed_data() + i * q, nullptr);
      first.scatter(out->typed_data() + i * slots, plane);
      if (!m.same()) second.scatter(out->typed_data() + i * slots, plane);
    } else {
      pairs.template run<false>(nullptr, out->typed_data() + i * q);
    }
  }
  return ffi::Error::Success();
}

template <ffi::DataType D> auto binding() {
  return ffi::Ffi::Bind()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Attr<ffi::Span<const int64_t>>("counts")
      .template Attr<ffi::Span<const double>>("numbers");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_triplets_float32, (call<false, ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_triplets_float64, (call<false, ffi::F64, double>), binding<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_triplets_back_float32, (call<true, ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_triplets_back_float64, (call<true, ffi::F64, double>), binding<ffi::F64>());
