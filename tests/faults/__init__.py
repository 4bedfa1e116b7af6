"""Faults on purpose: kd-bench is killed, starved and lied to, and must end as if nothing was."""
