"""Active learning: explore, select, label, train, until almost nothing new is found. `README.md` has the data flow."""
