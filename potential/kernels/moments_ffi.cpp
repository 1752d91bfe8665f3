// moments.hpp as a custom call of XLA: a whole padded graph (potential/graph.py) to energies, forces, virials and distances.
//
// Atoms are worked on some at a time, in parallel where XLA has threads: first their energies and the gradients to all pair
// vectors, then forces, F_i = Σ_k (g_ik − g_ki), each atom reading the other side of its pairs. Which thread does what is left to
// chance, and no number depends on it.

#include <atomic>
#include <memory>
#include <thread>

#include "moments.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int kBlock = 16;    // atoms whose descriptors go through a network together; a multiple of the tiles' height
constexpr int kGather = 256;  // atoms whose forces are summed at a time

// work(0) … work(parts − 1), by this thread and by those of the pool that are free; returns when all is done. The pool may be
// busy for as long as it likes: what it has not begun, this thread does.
template <class Work> void share(ffi::ThreadPool& pool, int parts, const Work& work) {
  struct Counts {
    std::atomic<int> next{0}, done{0};
  };
  auto counts = std::make_shared<Counts>();
  auto some = [counts, parts, &work] {
    for (int p; (p = counts->next.fetch_add(1)) < parts; counts->done.fetch_add(1)) work(p);
  };
  const int helpers = std::min<int>(int(pool.num_threads()), parts) - 1;
  for (int h = 0; h < helpers; ++h) pool.Schedule([some] { some(); });
  some();
  while (counts->done.load() < parts) std::this_thread::yield();
}

template <class T, class Shift> struct Graph {
  const double *positions, *cell;
  const int32_t *structure, *neighbours, *reverse;
  const Shift* shifts;
  const bool *atom_mask, *mask;
  int64_t atoms, slots, elements;
  ffi::Span<const int64_t> room;  // slots of every element
  T *energy, *forces, *virial, *nearest, *gradient;

  void collect(int64_t i, double cutoff, adatom::Block<T>& block) const {
    const double *own = positions + 3 * i, *h = cell + 9 * structure[i];
    const int32_t* j = neighbours + i * slots;
    const bool* used = mask + i * slots;
    const Shift* shift = shifts + 3 * i * slots;
    for (int64_t t = 0, k = 0; t < elements; ++t) {
      double closest = 4.0 * cutoff * cutoff;
      block.section(int(t));
      for (const int64_t stop = k + room[t]; k < stop; ++k) {
        if (!used[k]) continue;
        const double *other = positions + 3 * int64_t(j[k]), a = shift[3 * k], b = shift[3 * k + 1], c = shift[3 * k + 2];
        const double x = other[0] - own[0] + (a * h[0] + b * h[3] + c * h[6]);
        const double y = other[1] - own[1] + (a * h[1] + b * h[4] + c * h[7]);
        const double z = other[2] - own[2] + (a * h[2] + b * h[5] + c * h[8]);
        const double square = x * x + y * y + z * z;
        closest = square >= closest ? closest : square;
        block.add(T(x), T(y), T(z), int32_t(k), !(square >= cutoff * cutoff));  // not a number goes in, to be seen
      }
      const T least = T(std::sqrt(closest));
      nearest[i * elements + t] = closest <= 1e-12 ? T(1e-6) : least;
    }
  }

  void evaluate(const adatom::Model<T>& model, int element, int64_t start, int64_t stop) const {
    thread_local adatom::Block<T> block;
    std::array<int64_t, kBlock> real;
    int n = 0;
    block.clear();
    std::fill(gradient + 3 * start * slots, gradient + 3 * stop * slots, T(0));
    for (int64_t i = start; i < stop; ++i) {
      energy[i] = T(0);
      std::fill(virial + 9 * i, virial + 9 * i + 9, T(0));
      std::fill(nearest + elements * i, nearest + elements * (i + 1), T(2) * model.cutoff);
      if (!atom_mask[i]) continue;
      real[n++] = i;
      block.begin_atom(int(slots));
      collect(i, double(model.cutoff), block);
    }
    if (!n) return;
    adatom::evaluate(model, element, block);
    constexpr int where[] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
    for (int a = 0; a < n; ++a) {
      const int64_t i = real[a];
      energy[i] = block.energy[a];
      for (int k = 0; k < 9; ++k) virial[9 * i + k] = block.virial[6 * a + where[k]];
      T* g = gradient + 3 * i * slots;
      for (int q = block.first(a); q < block.last(a); ++q) {
        if (block.tag[q] < 0) continue;
        T* to = g + 3 * block.tag[q];
        to[0] = block.gx[q], to[1] = block.gy[q], to[2] = block.gz[q];
      }
    }
  }

  void gather(int64_t start, int64_t stop) const {
    for (int64_t i = start; i < stop; ++i) {
      T x = 0, y = 0, z = 0;
      for (int64_t p = i * slots; p < (i + 1) * slots; ++p) {
        const T *g = gradient + 3 * p, *back = gradient + 3 * int64_t(reverse[p]);
        x += g[0] - back[0], y += g[1] - back[1], z += g[2] - back[2];
      }
      forces[3 * i] = x, forces[3 * i + 1] = y, forces[3 * i + 2] = z;
    }
  }

  void run(const adatom::Model<T>& model, ffi::ThreadPool& pool, ffi::Span<const int64_t> groups) const {
    struct Part {
      int element;
      int64_t start, stop;
    };
    std::vector<Part> parts;
    int64_t first = 0;
    for (size_t t = 0; t < groups.size(); first += groups[t++])
      for (int64_t i = first; i < first + groups[t]; i += kBlock)
        parts.push_back({int(t), i, std::min(i + kBlock, first + groups[t])});
    share(pool, int(parts.size()), [&](int p) { evaluate(model, parts[p].element, parts[p].start, parts[p].stop); });
    share(pool, int((atoms + kGather - 1) / kGather), [&](int p) {
      gather(int64_t(p) * kGather, std::min<int64_t>(atoms, int64_t(p + 1) * kGather));
    });
  }
};

template <ffi::DataType D, class T>
ffi::Error call(ffi::ThreadPool pool, ffi::Buffer<D> numbers, ffi::Buffer<ffi::F64> positions, ffi::Buffer<ffi::F64> cell,
                ffi::Buffer<ffi::S32> structure, ffi::Buffer<ffi::PRED> atom_mask, ffi::Buffer<ffi::S32> neighbours,
                ffi::AnyBuffer shifts, ffi::Buffer<ffi::PRED> mask, ffi::Buffer<ffi::S32> reverse,
                ffi::ResultBuffer<D> energy, ffi::ResultBuffer<D> forces, ffi::ResultBuffer<D> virial,
                ffi::ResultBuffer<D> nearest, ffi::ResultBuffer<D> gradient, ffi::Span<const int64_t> sizes,
                ffi::Span<const int64_t> atoms, ffi::Span<const int64_t> slots) {
  adatom::Sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]), bool(sizes[4]), bool(sizes[5]), bool(sizes[6]),
                  int(sizes[7]), {}};
  s.widths.assign(sizes.begin() + 8, sizes.end());
  const adatom::Model<T> model(s, numbers.typed_data());
  if (model.length != numbers.element_count()) return ffi::Error::InvalidArgument("moments: parameters of another size");
  auto run = [&](auto shift) {
    using Shift = decltype(shift);
    const int64_t n = neighbours.dimensions()[0], k = neighbours.dimensions()[1];
    Graph<T, Shift> graph{positions.typed_data(), cell.typed_data(), structure.typed_data(), neighbours.typed_data(),
                          reverse.typed_data(), static_cast<const Shift*>(shifts.untyped_data()), atom_mask.typed_data(),
                          mask.typed_data(), n, k, s.elements, slots, energy->typed_data(), forces->typed_data(),
                          virial->typed_data(), nearest->typed_data(), gradient->typed_data()};
    graph.run(model, pool, atoms);
    return ffi::Error::Success();
  };
  if (shifts.element_type() == ffi::S8) return run(int8_t{});
  if (shifts.element_type() == ffi::S32) return run(int32_t{});
  return ffi::Error::InvalidArgument("moments: shifts must be int8 or int32");
}

template <ffi::DataType D> auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<ffi::F64>>()
      .template Arg<ffi::Buffer<ffi::F64>>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Arg<ffi::Buffer<ffi::PRED>>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<ffi::Buffer<ffi::PRED>>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Attr<ffi::Span<const int64_t>>("sizes")
      .template Attr<ffi::Span<const int64_t>>("atoms")
      .template Attr<ffi::Span<const int64_t>>("slots");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_float32, (call<ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_float64, (call<ffi::F64, double>), binding<ffi::F64>());
