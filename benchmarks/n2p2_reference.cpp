// Energy, forces and dE/dstrain of one structure by n2p2, and the time of each of its stages. Linked to a build of n2p2 by interop.py.
//
//     n2p2_reference REPEATS      in a folder with input.nn, scaling.data, weights.*.data and input.data
//
// Prints one line of JSON: energy, forces and virial in the units of the files; CPU time [µs] per atom of symmetry functions with
// derivatives, networks, forces, each the median of all repeats; the neighbour list is made once.

#include "Prediction.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

static double now()
{
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e6 * t.tv_sec + 1e-3 * t.tv_nsec;
}

static double median(std::vector<double> x)
{
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

struct Reference : nnp::Prediction
{
    // Sum over pairs i, n of r_in times dE_i/dr_n, which n2p2's own programs leave to LAMMPS.
    std::vector<double> virial()
    {
        std::vector<double> w(9, 0.0);
        for (auto const& a : structure.atoms)
        {
            auto const& table = elements.at(a.element).getSymmetryFunctionTable();
            size_t const count = a.getStoredMinNumNeighbors(maxCutoffRadius);
            for (size_t k = 0; k < count; ++k)
            {
                nnp::Vec3D const f = a.calculatePairForceShort(a.neighbors[k], &table);
                for (int x = 0; x < 9; ++x) w[x] += a.neighbors[k].dr[x / 3] * f[x % 3];
            }
        }
        double const scale = useNormalization() ? 1.0 / convEnergy : 1.0;
        for (auto& x : w) x *= scale;
        return w;
    }
};

int main(int argc, char** argv)
{
    int const repeats = argc > 1 ? std::atoi(argv[1]) : 1;
    Reference p;
    p.log.writeToStdout = false;
    p.initialize();
    p.loadSettingsFile("input.nn");
    p.setupGeneric();
    p.setupSymmetryFunctionScaling("scaling.data");
    p.setupNeuralNetworkWeights({{"short", "weights.%03zu.data"}});
    p.setupSymmetryFunctionStatistics(false, false, false, false);
    p.readStructureFromFile("input.data");
    nnp::Structure& s = p.structure;
    double const n = s.numAtoms;
    s.calculateNeighborList(p.getMaxCutoffRadius());
    std::vector<double> functions, networks, forces;
    for (int k = 0; k < repeats; ++k)
    {
        s.freeAtoms(true, p.getMaxCutoffRadius());
        for (auto& a : s.atoms) a.f = nnp::Vec3D();
        double const t0 = now();
        p.calculateSymmetryFunctionGroups(s, true);
        double const t1 = now();
        p.calculateAtomicNeuralNetworks(s, true);
        p.calculateEnergy(s);
        double const t2 = now();
        p.calculateForces(s);
        double const t3 = now();
        functions.push_back((t1 - t0) / n);
        networks.push_back((t2 - t1) / n);
        forces.push_back((t3 - t2) / n);
    }
    std::vector<double> const w = p.virial();
    if (p.useNormalization()) p.convertToPhysicalUnits(s);
    p.addEnergyOffset(s, false);
    std::printf("{\"functions\": %.4f, \"networks\": %.4f, \"derivatives\": %.4f, ", median(functions), median(networks), median(forces));
    std::printf("\"energy\": %.17g, \"forces\": [", s.energy);
    for (size_t i = 0; i < s.atoms.size(); ++i)
    {
        auto const& f = s.atoms[i].f;
        std::printf("%s[%.17g, %.17g, %.17g]", i ? ", " : "", f[0], f[1], f[2]);
    }
    std::printf("], \"virial\": [");
    for (int x = 0; x < 9; ++x) std::printf("%s%.17g", x ? ", " : "", w[x]);
    std::printf("]}\n");
    return 0;
}
