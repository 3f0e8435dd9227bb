"""Programs and test data for the speed benchmarks in `bench`."""
