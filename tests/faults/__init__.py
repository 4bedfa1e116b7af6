"""Fault injection: kd-bench is killed, starved and given damaged files, and must recover."""
