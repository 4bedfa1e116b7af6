"""Makes `python -m kd_bench` the same program as `kd-bench`."""

from kd_bench.utils.own_modules import leave_out_current_folder

leave_out_current_folder()

from kd_bench.cli.main import main  # noqa: E402  # after the line above

main()
