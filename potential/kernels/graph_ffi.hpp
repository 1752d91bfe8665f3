// What the custom calls of XLA in this folder share: a padded graph (potential/graph.py), and work in parallel.

#pragma once

#include "moments.hpp"
#include "share.hpp"
#include "xla/ffi/api/ffi.h"

namespace adatom {

namespace ffi = xla::ffi;

constexpr int kBlock = 16;  // atoms whose descriptors go through a network together; a multiple of the tiles' height

// Some atoms of one element.
struct Part {
  int element;
  int64_t start, stop;
};

inline std::vector<Part> parts_of(ffi::Span<const int64_t> groups) {
  std::vector<Part> parts;
  int64_t first = 0;
  for (size_t t = 0; t < groups.size(); first += groups[t++])
    for (int64_t i = first; i < first + groups[t]; i += kBlock)
      parts.push_back({int(t), i, std::min(i + kBlock, first + groups[t])});
  return parts;
}

inline Sizes sizes_of(ffi::Span<const int64_t> s) {
  Sizes sizes{int(s[0]), int(s[1]), int(s[2]), int(s[3]), bool(s[4]), bool(s[5]), int(s[6]), {}, {}};
  const auto* at = s.begin() + 8;
  for (int64_t n = 0; n < s[7]; ++n, at += 3) sizes.contractions.push_back({int(at[0]), int(at[1]), int(at[2])});
  sizes.widths.assign(at, s.end());
  return sizes;
}

template <class T, class Shift> struct Graph {
  const double *positions, *cell;
  const int32_t *structure, *neighbours;
  const Shift* shifts;
  const bool *atom_mask, *mask;
  int64_t atoms, slots, elements;
  ffi::Span<const int64_t> room;  // slots of every element

  // Neighbours of atom i within the cutoff into the block; the closest of each element to `nearest` (elements).
  void collect(int64_t i, double cutoff, Block<T>& block, T* nearest) const {
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
      nearest[t] = closest <= 1e-12 ? T(1e-6) : least;
    }
  }

  // The atoms of a part that are there, `real`, and their neighbours; nearest (atoms of the part, elements).
  void fill(const Part& part, double cutoff, Block<T>& block, std::vector<int64_t>& real, T* nearest) const {
    block.clear(), real.clear();
    for (int64_t i = part.start; i < part.stop; ++i) {
      if (!atom_mask[i]) continue;
      real.push_back(i);
      block.begin_atom(int(slots));
      collect(i, cutoff, block, nearest + elements * (i - part.start));
    }
    block.close();
  }
};

// What every call begins with: threads, sizes of the model, atoms and slots of every element, parameters, and the graph.
template <ffi::DataType D> auto begin_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Attr<ffi::Span<const int64_t>>("sizes")
      .template Attr<ffi::Span<const int64_t>>("atoms")
      .template Attr<ffi::Span<const int64_t>>("slots")
      .template Arg<ffi::Buffer<D>>()
      .template Arg<ffi::Buffer<ffi::F64>>()
      .template Arg<ffi::Buffer<ffi::F64>>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Arg<ffi::Buffer<ffi::PRED>>()
      .template Arg<ffi::Buffer<ffi::S32>>()
      .template Arg<ffi::AnyBuffer>()
      .template Arg<ffi::Buffer<ffi::PRED>>();
}

// work(model, graph) with shifts of the type they have.
template <class T, class Numbers, class Work>
ffi::Error with_graph(ffi::Span<const int64_t> sizes, ffi::Span<const int64_t> slots, const Numbers& numbers,
                      ffi::Buffer<ffi::F64> positions, ffi::Buffer<ffi::F64> cell, ffi::Buffer<ffi::S32> structure,
                      ffi::Buffer<ffi::PRED> atom_mask, ffi::Buffer<ffi::S32> neighbours, ffi::AnyBuffer shifts,
                      ffi::Buffer<ffi::PRED> mask, const Work& work) {
  const Model<T> model(sizes_of(sizes), numbers.typed_data());
  if (model.length != numbers.element_count()) return ffi::Error::InvalidArgument("moments: parameters of another size");
  const auto run = [&](auto shift) {
    using Shift = decltype(shift);
    work(model, Graph<T, Shift>{positions.typed_data(), cell.typed_data(), structure.typed_data(), neighbours.typed_data(),
                                static_cast<const Shift*>(shifts.untyped_data()), atom_mask.typed_data(), mask.typed_data(),
                                neighbours.dimensions()[0], neighbours.dimensions()[1], int64_t(slots.size()), slots});
    return ffi::Error::Success();
  };
  if (shifts.element_type() == ffi::S8) return run(int8_t{});
  if (shifts.element_type() == ffi::S32) return run(int32_t{});
  return ffi::Error::InvalidArgument("moments: shifts must be int8 or int32");
}

}  // namespace adatom
