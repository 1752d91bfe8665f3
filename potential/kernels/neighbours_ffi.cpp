// The neighbour list of molecular dynamics (md/neighbours.py) as a custom call of XLA: bins filled with atoms to rows of
// neighbours, in the same order, to the last bit, and with the same answer where capacities are too small.
//
// Compiled without contraction of products and sums: whether a pair is close must not depend on the side that asks.

#include <cmath>
#include <cstdint>
#include <vector>

#include "share.hpp"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Numbers = ffi::Span<const int64_t>;

constexpr int kBins = 8, kRows = 256;  // worked on at a time

struct List {
  const double *positions, *cell;       // (atoms, 3) wrapped, (structures, 3, 3)
  const bool* periodic;                 // (structures, 3)
  const int32_t* bins;                  // (bins, capacity): atoms, or their number where empty
  int64_t atoms, n_bins, capacity;
  Numbers grid, reach, room, species_atoms;
  double length;
  int32_t *neighbours, *reverse;        // (atoms, slots)
  int8_t* shifts;                       // (atoms, slots, 3)
  bool* mask;                           // (atoms, slots)
  std::atomic<int32_t>* most;           // neighbours of every species of the atom that has most
  int64_t slots = 0;
  std::vector<int64_t> first = {};      // slot, of every species
  std::vector<int16_t> species = {};    // of every atom

  void prepare() {
    for (size_t t = 0; t < room.size(); ++t) {
      first.push_back(slots);
      slots += room[t];
      species.insert(species.end(), size_t(species_atoms[t]), int16_t(t));
    }
  }

  void clear(int64_t i) const {
    for (int64_t k = 0, at = i * slots; k < slots; ++k, ++at) {
      neighbours[at] = int32_t(i), reverse[at] = int32_t(at), mask[at] = false;
      shifts[3 * at] = shifts[3 * at + 1] = shifts[3 * at + 2] = 0;
    }
  }

  struct Near {                           // what is in the bins around one
    std::vector<double> x, y, z, a, b, c;  // positions and, kept apart, lattice vectors: (r_j − r_i) + lattice changes its sign, and
    std::vector<double> square;            // nothing else, with the side it is seen from
    std::vector<int32_t> atom, close;
    std::vector<int8_t> shift;
    size_t count, own;                     // atoms, and where those of the bin itself begin
  };

  void around(int64_t bin, Near& near) const {
    const size_t most_near = size_t(capacity * (2 * reach[0] + 1) * (2 * reach[1] + 1) * (2 * reach[2] + 1));
    for (auto* v : {&near.x, &near.y, &near.z, &near.a, &near.b, &near.c, &near.square}) v->resize(most_near);
    near.atom.resize(most_near), near.close.resize(most_near), near.shift.resize(3 * most_near), near.count = 0;
    const int64_t here[] = {bin / (grid[1] * grid[2]) % grid[0], bin / grid[2] % grid[1], bin % grid[2]};
    const int64_t structure = bin / (grid[0] * grid[1] * grid[2]);
    const double* h = cell + 9 * structure;
    const bool* open = periodic + 3 * structure;
    int64_t o[3];
    for (o[0] = -reach[0]; o[0] <= reach[0]; ++o[0])
      for (o[1] = -reach[1]; o[1] <= reach[1]; ++o[1])
        for (o[2] = -reach[2]; o[2] <= reach[2]; ++o[2]) {
          int64_t inside[3], s[3];
          bool exists = true;
          for (int c = 0; c < 3; ++c) {
            const int64_t there = here[c] + o[c];
            s[c] = there >= 0 ? there / grid[c] : -((grid[c] - 1 - there) / grid[c]);
            inside[c] = there - s[c] * grid[c];
            exists = exists && (open[c] || s[c] == 0);
          }
          if (!exists) continue;
          if (!o[0] && !o[1] && !o[2]) near.own = near.count;
          const double a = double(s[0]), b = double(s[1]), c = double(s[2]);
          const double lx = a * h[0] + b * h[3] + c * h[6], ly = a * h[1] + b * h[4] + c * h[7], lz = a * h[2] + b * h[5] + c * h[8];
          const int32_t* in = bins + capacity * (((structure * grid[0] + inside[0]) * grid[1] + inside[1]) * grid[2] + inside[2]);
          for (int64_t m = 0; m < capacity && in[m] < atoms; ++m, ++near.count) {
            const size_t q = near.count;
            const double* r = positions + 3 * int64_t(in[m]);
            near.x[q] = r[0], near.y[q] = r[1], near.z[q] = r[2], near.a[q] = lx, near.b[q] = ly, near.c[q] = lz;
            near.atom[q] = in[m];
            for (int e = 0; e < 3; ++e) near.shift[3 * q + e] = int8_t(s[e]);
          }
        }
  }

  void fill(int64_t bin, Near& near, std::vector<int64_t>& found) const {
    const int32_t* own = bins + capacity * bin;
    if (!capacity || own[0] >= atoms) return;
    around(bin, near);
    const size_t n = near.count;
    for (int64_t m = 0; m < capacity && own[m] < atoms; ++m) {
      const int64_t i = own[m];
      const double x = positions[3 * i], y = positions[3 * i + 1], z = positions[3 * i + 2];
      for (size_t q = 0; q < n; ++q) {
        const double dx = (near.x[q] - x) + near.a[q], dy = (near.y[q] - y) + near.b[q], dz = (near.z[q] - z) + near.c[q];
        near.square[q] = dx * dx + dy * dy + dz * dz;
      }
      near.square[near.own + m] = INFINITY;
      found.assign(room.size(), 0);
      size_t n_close = 0;
      for (size_t q = 0; q < n; ++q) near.close[n_close] = int32_t(q), n_close += near.square[q] < length * length;
      for (size_t p = 0; p < n_close; ++p) {
        const size_t q = size_t(near.close[p]);
        const int t = species[near.atom[q]];
        const int64_t k = found[t]++;
        if (k >= room[t]) continue;
        const int64_t at = i * slots + first[t] + k;
        neighbours[at] = near.atom[q], mask[at] = true;
        for (int c = 0; c < 3; ++c) shifts[3 * at + c] = near.shift[3 * q + c];
      }
      for (size_t t = 0; t < found.size(); ++t) {
        int32_t before = most[t].load();
        while (before < found[t] && !most[t].compare_exchange_weak(before, int32_t(found[t]))) {
        }
      }
    }
  }

  void reverse_of(int64_t i) const {
    const int t = species[i];
    if (!room[t]) return;
    for (int64_t at = i * slots; at < (i + 1) * slots; ++at) {
      if (!mask[at]) continue;
      const int64_t begin = int64_t(neighbours[at]) * slots + first[t];
      const auto same = [&](int64_t b) {
        return neighbours[b] == i && mask[b] && shifts[3 * b] == -shifts[3 * at] && shifts[3 * b + 1] == -shifts[3 * at + 1] &&
               shifts[3 * b + 2] == -shifts[3 * at + 2];
      };
      int32_t b = 0;
      for (int32_t k = 0; k < int32_t(room[t]); ++k) b = neighbours[begin + k] == int32_t(i) ? k : b;  // all at once
      if (!same(begin + b))                                                                            // one of several images
        for (b = 0; b < room[t] && !same(begin + b);) ++b;
      if (b < room[t]) reverse[at] = int32_t(begin + b);
    }
  }
};

ffi::Error call(ffi::ThreadPool pool, Numbers grid, Numbers reach, Numbers room, Numbers species_atoms, double length,
                ffi::Buffer<ffi::F64> positions, ffi::Buffer<ffi::F64> cell, ffi::Buffer<ffi::PRED> periodic,
                ffi::Buffer<ffi::S32> bins, ffi::ResultBuffer<ffi::S32> neighbours, ffi::ResultBuffer<ffi::S8> shifts,
                ffi::ResultBuffer<ffi::PRED> mask, ffi::ResultBuffer<ffi::S32> reverse, ffi::ResultBuffer<ffi::S32> most) {
  std::vector<std::atomic<int32_t>> counts(room.size());
  for (auto& x : counts) x = 0;
  List list{positions.typed_data(), cell.typed_data(), periodic.typed_data(), bins.typed_data(), int64_t(positions.dimensions()[0]),
            int64_t(bins.dimensions()[0]), int64_t(bins.dimensions()[1]), grid, reach, room, species_atoms, length,
            neighbours->typed_data(), reverse->typed_data(), shifts->typed_data(), mask->typed_data(), counts.data()};
  list.prepare();
  const auto rows = [&](const auto& work) {
    adatom::share(pool, int((list.atoms + kRows - 1) / kRows), [&](int p) {
      for (int64_t i = int64_t(p) * kRows; i < std::min(list.atoms, int64_t(p + 1) * kRows); ++i) work(i);
    });
  };
  rows([&](int64_t i) { list.clear(i); });
  adatom::share(pool, int((list.n_bins + kBins - 1) / kBins), [&](int p) {
    thread_local List::Near near;
    thread_local std::vector<int64_t> found;
    for (int64_t b = int64_t(p) * kBins; b < std::min(list.n_bins, int64_t(p + 1) * kBins); ++b) list.fill(b, near, found);
  });
  rows([&](int64_t i) { list.reverse_of(i); });
  std::copy(counts.begin(), counts.end(), most->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(adatom_neighbours, call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<Numbers>("grid")
                                  .Attr<Numbers>("reach")
                                  .Attr<Numbers>("room")
                                  .Attr<Numbers>("species_atoms")
                                  .Attr<double>("length")
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S8>>()
                                  .Ret<ffi::Buffer<ffi::PRED>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
