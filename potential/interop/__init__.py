"""Models of other programs, read, run and written: DeePMD-kit, n2p2 (RuNNer) and NEP (GPUMD)."""
