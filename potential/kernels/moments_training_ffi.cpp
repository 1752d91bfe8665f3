// moments_training.hpp as a custom call of XLA: from what a loss asks of energies, forces and virials to gradients of parameters.
//
// Gradients are summed in as many portions of the atoms as there are threads, which portion has which atoms being fixed: the same
// numbers every time on as many threads.

#include "graph_ffi.hpp"
#include "moments_training.hpp"

namespace {

using namespace adatom;

template <class T, class AnyGraph> struct Learning {
  const AnyGraph& graph;
  const T *energy_bar, *forces_bar, *virial_bar;

  void learn(const Model<T>& model, const Part& part, T* out) const {
    thread_local Block<T> block;
    thread_local Training<T> training;
    thread_local std::vector<int64_t> real;
    thread_local std::vector<T> nearest, bar;
    nearest.resize(kBlock * graph.elements);
    graph.fill(part, double(model.cutoff), block, real, nearest.data());
    if (real.empty()) return;
    bar.clear();
    training.along(block);
    for (size_t a = 0; a < real.size(); ++a) {
      const int64_t i = real[a];
      bar.push_back(energy_bar[i]);
      const T *own = forces_bar + 3 * i, *w = virial_bar + 9 * i;
      for (int q = block.first(int(a)); q < block.last(int(a)); ++q) {
        T v[3] = {};
        if (block.tag[q] >= 0) {  // F_i has +g_ik, F_j has −g_ik, the virial sym(D_ik ⊗ g_ik)
          const T* other = forces_bar + 3 * int64_t(graph.neighbours[i * graph.slots + block.tag[q]]);
          const T d[] = {block.x[q], block.y[q], block.z[q]};
          for (int x = 0; x < 3; ++x) {
            v[x] = own[x] - other[x];
            for (int y = 0; y < 3; ++y) v[x] += T(0.5) * (w[3 * x + y] + w[3 * y + x]) * d[y];
          }
        }
        training.vx[q] = v[0], training.vy[q] = v[1], training.vz[q] = v[2];
      }
    }
    training.learn(model, part.element, block, bar.data(), out);
  }
};

template <ffi::DataType D, class T>
ffi::Error call(ffi::ThreadPool pool, ffi::Span<const int64_t> sizes, ffi::Span<const int64_t> atoms,
                ffi::Span<const int64_t> slots, ffi::Buffer<D> numbers, ffi::Buffer<ffi::F64> positions,
                ffi::Buffer<ffi::F64> cell, ffi::Buffer<ffi::S32> structure, ffi::Buffer<ffi::PRED> atom_mask,
                ffi::Buffer<ffi::S32> neighbours, ffi::AnyBuffer shifts, ffi::Buffer<ffi::PRED> mask, ffi::Buffer<D> energy_bar,
                ffi::Buffer<D> forces_bar, ffi::Buffer<D> virial_bar, ffi::ResultBuffer<D> out) {
  const auto work = [&](const Model<T>& model, const auto& graph) {
    const Learning<T, std::decay_t<decltype(graph)>> learning{graph, energy_bar.typed_data(), forces_bar.typed_data(),
                                                              virial_bar.typed_data()};
    const auto parts = parts_of(atoms);
    const int portions = std::max(1, std::min<int>(int(pool.num_threads()), int(parts.size())));
    std::vector<std::vector<T>> sums(portions - 1, std::vector<T>(model.length, T(0)));
    T* total = out->typed_data();
    std::fill(total, total + model.length, T(0));
    share(pool, portions, [&](int k) {
      for (size_t p = parts.size() * k / portions; p < parts.size() * (k + 1) / portions; ++p)
        learning.learn(model, parts[p], k ? sums[k - 1].data() : total);
    });
    for (const auto& s : sums)
      for (size_t i = 0; i < model.length; ++i) total[i] += s[i];
  };
  return with_graph<T>(sizes, slots, numbers, positions, cell, structure, atom_mask, neighbours, shifts, mask, work);
}

template <ffi::DataType D> auto binding() {
  return begin_binding<D>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<D>>()
      .template Ret<ffi::Buffer<D>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_training_float32, (call<ffi::F32, float>), binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_moments_training_float64, (call<ffi::F64, double>), binding<ffi::F64>());
