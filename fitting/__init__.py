"""From DFT data to a potential: reading, auditing, fitting, testing, and the command line."""
