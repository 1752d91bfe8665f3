// Vectors of this machine, and products of small matrices made of them: what the other headers of this folder compute with.
//
// Vectors are the `vector_size` types of GCC and clang, so that AVX-512, AVX2, SSE or NEON come from one source.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace adatom {

// ---------------------------------------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRows = 8;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRows = 4;
#else
constexpr int kBytes = 16, kRows = 4;
#endif
constexpr int kPad = 16;  // rows of every matrix are padded to this many numbers, whatever the machine

inline int padded(int n) { return (n + kPad - 1) / kPad * kPad; }

template <class T> struct Vector;
template <> struct Vector<float> {
  typedef float Type __attribute__((vector_size(kBytes), may_alias));
  typedef float Loose __attribute__((vector_size(kBytes), may_alias, aligned(4)));
  typedef int32_t Bits __attribute__((vector_size(kBytes), may_alias));
};
template <> struct Vector<double> {
  typedef double Type __attribute__((vector_size(kBytes), may_alias));
  typedef double Loose __attribute__((vector_size(kBytes), may_alias, aligned(8)));
  typedef int64_t Bits __attribute__((vector_size(kBytes), may_alias));
};
template <class T> using V = typename Vector<T>::Type;
template <class T> constexpr int kLanes = kBytes / int(sizeof(T));

template <class T> inline V<T> load(const T* p) { return *reinterpret_cast<const typename Vector<T>::Loose*>(p); }
template <class T> inline void store(T* p, V<T> v) { *reinterpret_cast<typename Vector<T>::Loose*>(p) = v; }
template <class T> inline V<T> all(T x) { return x - V<T>{}; }
template <class T> inline T sum(V<T> v) {
  T s = 0;
  for (int i = 0; i < kLanes<T>; ++i) s += v[i];
  return s;
}

// exp to about one unit in the last place: 2^n p(x − n ln 2), p the Taylor polynomial on |x| ≤ ½ ln 2. Saturates instead of
// overflowing; passes NaN on.
template <class T> inline V<T> exp(V<T> x) {
  constexpr bool f = sizeof(T) == 4;
  constexpr T limit = f ? T(87.3) : T(708.3), magic = f ? T(12582912.0) : T(6755399441055744.0);
  constexpr T high = f ? T(0.693359375) : T(6.93145751953125e-1), low = f ? T(-2.12194440e-4) : T(1.42860682030941723212e-6);
  x = x < -limit ? all<T>(-limit) : x;
  x = x > limit ? all<T>(limit) : x;
  const V<T> shifted = x * T(1.44269504088896340736) + magic;
  const V<T> n = shifted - magic;
  const V<T> r = (x - n * high) - n * low;
  constexpr int degree = f ? 7 : 13;
  constexpr double inverse[] = {1.0,        1.0,         1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,       1.0 / 720,
                                1.0 / 5040, 1.0 / 40320, 1.0 / 362880,  1.0 / 3628800,  1.0 / 39916800,  1.0 / 479001600, 1.0 / 6227020800.0};
  V<T> p = all<T>(T(inverse[degree]));
#pragma GCC unroll 16
  for (int k = degree - 1; k >= 0; --k) p = p * r + T(inverse[k]);
  typedef typename Vector<T>::Bits Bits;
  return (V<T>)((Bits)p + ((Bits)shifted << (f ? 23 : 52)));
}

// Memory that only grows, aligned to cache lines, zero when new.
template <class T> class Array {
 public:
  Array() = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(data_, std::align_val_t(64)); }
  T* need(size_t n) {
    if (n > size_) {
      const size_t bigger = std::max(n, 2 * size_) + 64;
      T* fresh = static_cast<T*>(::operator new(bigger * sizeof(T), std::align_val_t(64)));
      if (size_) std::memcpy(fresh, data_, size_ * sizeof(T));
      std::memset(static_cast<void*>(fresh + size_), 0, (bigger - size_) * sizeof(T));
      ::operator delete(data_, std::align_val_t(64));
      data_ = fresh, size_ = bigger;
    }
    return data_;
  }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// ------------------------------------------------------------------------------------------------------- matrix products

// C (rows R, N vectors wide) = [C or bias or 0] + A B. Element (r, k) of A is a[r * ar + k * ak] and is spread over a vector;
// rows of B and C are contiguous. Everything heavy in this file is this function.
template <class T, int R, int N>
inline void tile(const T* a, ptrdiff_t ar, ptrdiff_t ak, const T* b, ptrdiff_t ldb, T* c, ptrdiff_t ldc, int depth, bool add,
                 const T* bias) {
  constexpr int w = kLanes<T>;
  V<T> acc[R][N];  // in registers, as long as every loop over it is unrolled
  if (add) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = load(c + r * ldc + n * w);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] = bias ? load(bias + n * w) : V<T>{};
  }
  for (int k = 0; k < depth; ++k, a += ak, b += ldb) {
    V<T> row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = load(b + n * w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V<T> x = all<T>(a[r * ar]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] += x * row[n];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + r * ldc + n * w, acc[r][n]);
}

template <class T> struct Product {
  const T* a;
  ptrdiff_t ar, ak;
  const T* b;
  ptrdiff_t ldb;
  T* c;
  ptrdiff_t ldc;
  int depth;
  bool add = false;
  const T* bias = nullptr;

  template <int R, int N> void one(int r, int n) const {
    const int at = n * kLanes<T>;
    tile<T, R, N>(a + r * ar, ar, ak, b + at, ldb, c + r * ldc + at, ldc, depth, add, bias ? bias + at : nullptr);
  }
  template <int N, int R = kRows> void rows(int count, int r, int n) const {
    if constexpr (R > 0) {
      if (count == R) one<R, N>(r, n);
      else rows<N, R - 1>(count, r, n);
    }
  }
  // `height` rows and as many columns as whole vectors hold `width`, in tiles of nearly equal height
  void run(int height, int width) const {
    const int vectors = (width + kLanes<T> - 1) / kLanes<T>, parts = (height + kRows - 1) / kRows;
    for (int n = 0; n < vectors; n += 3)
      for (int p = 0, r = 0; p < parts; ++p) {
        const int count = (height - r) / (parts - p);
        if (vectors - n >= 3) rows<3>(count, r, n);
        else if (vectors - n == 2) rows<2>(count, r, n);
        else rows<1>(count, r, n);
        r += count;
      }
  }
};

}  // namespace adatom
