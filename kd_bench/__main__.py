"""python -m kd_bench: the same program as `kd-bench`."""

from kd_bench.cli.main import main

main()
