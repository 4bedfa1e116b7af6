"""python -m kd_bench: the same program as `kd-bench`."""

from kd_bench.cli import main

main()
