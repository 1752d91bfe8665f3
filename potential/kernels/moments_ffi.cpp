// moments.hpp as a custom call of XLA: a whole padded graph to energies, forces, virials and distances.
//
// Atoms are worked on some at a time, in parallel where XLA has threads: first their energies and the gradients to all pair
// vectors, then forces, F_i = Σ_k (g_ik − g_ki), each atom reading the other side of its pairs. Which thread does what is left to
// chance, and no number depends on it.

#include "graph_ffi.hpp"

namespace {

using namespace adatom;

constexpr int kGather = 256;  // atoms whose forces are summed at a time

template <class T, class AnyGraph> struct Evaluation {
  const AnyGraph& graph;
  const int32_t* reverse;
  T *energy, *forces, *virial, *nearest, *gradient;

  void evaluate(const Model<T>& model, const Part& part) const {
    thread_local Block<T> block;
    thread_local std::vector<int64_t> real;
    const int64_t start = part.start, stop = part.stop, slots = graph.slots, elements = graph.elements;
    std::fill(gradient + 3 * start * slots, gradient + 3 * stop * slots, T(0));
    std::fill(energy + start, energy + stop, T(0));
    std::fill(virial + 9 * start, virial + 9 * stop, T(0));
    std::fill(nearest + elements * start, nearest + elements * stop, T(2) * model.cutoff);
    graph.fill(part, double(model.cutoff), block, real, nearest + elements * start);
    if (real.empty()) return;
    adatom::evaluate(model, part.element, block);
    constexpr int where[] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
    for (size_t a = 0; a < real.size(); ++a) {
      const int64_t i = real[a];
      energy[i] = block.energy[a];
      for (int k = 0; k < 9; ++k) virial[9 * i + k] = block.virial[6 * a + where[k]];
      T* g = gradient + 3 * i * slots;
      for (int q = block.first(int(a)); q < block.last(int(a)); ++q) {
        if (block.tag[q] < 0) continue;
        T* to = g + 3 * block.tag[q];
        to[0] = block.gx[q], to[1] = block.gy[q], to[2] = block.gz[q];
      }
    }
  }

  void gather(int64_t start, int64_t stop) const {
    for (int64_t i = start; i < stop; ++i) {
      T x = 0, y = 0, z = 0;
      for (int64_t p = i * graph.slots; p < (i + 1) * graph.slots; ++p) {
        const T *g = gradient + 3 * p, *back = gradient + 3 * int64_t(reverse[p]);
        x += g[0] - back[0], y += g[1] - back[1], z += g[2] - back[2];
      }
      forces[3 * i] = x, forces[3 * i + 1] = y, forces[3 * i + 2] = z;
    }
  }
};

template <ffi::DataType D, class T>
ffi::Error call(ffi::ThreadPool pool, ffi::Span<const int64_t> sizes, ffi::Span<const int64_t> atoms,
                ffi::Span<const int64_t> slots, ffi::Buffer<D> numbers, ffi::Buffer<ffi::F64> positions,
                ffi::Buffer<ffi::F64> cell, ffi::Buffer<ffi::S32> structure, ffi::Buffer<ffi::PRED> atom_mask,
                ffi::Buffer<ffi::S32> neighbours, ffi::AnyBuffer shifts, ffi::Buffer<ffi::PRED> mask,
                ffi::Buffer<ffi::S32> reverse, ffi::ResultBuffer<D> energy, ffi::ResultBuffer<D> forces,
                ffi::ResultBuffer<D> virial, ffi::ResultBuffer<D> nearest, ffi::ResultBuffer<D> gradient) {
  const auto work = [&](const Model<T>& model, const auto& graph) {
    const Evaluation<T, std::decay_t<decltype(graph)>> e{graph, reverse.typed_data(), energy->typed_data(), forces->typed_data(),
                                                         virial->typed_data(), nearest->typed_data(), gradient->typed_data()};
    const auto parts = parts_of(atoms);
    share(pool, int(parts.size()), [&](int p) { e.evaluate(model, parts[p]); });
    share(pool, int((graph.atoms + kGather - 1) / kGather), [&](int p) {
      e.gather(int64_t(p) * kGather, std::min<int64_t>(graph.atoms, int64_t(p + 1) * kGather));
    });
  };
  return with_graph<T>(sizes, slots, numbers, positions, cell, structure, atom_mask, neighbours, shifts, mask, work);
}

template <ffi::DataType D> auto binding() {
  return begin_binding<D>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_float32, (call<ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_float64, (call<ffi::F64, double>), binding<ffi::F64>());
