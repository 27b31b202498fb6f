"""Speed, measured: `python -m benchmarks [--check]`, or `tox -e bench`."""
