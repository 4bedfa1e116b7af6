"""One job, from its configuration to its record.

In this order: `resolve` turns a composed configuration into a frozen `Job`, `validate` builds its
parts without weights to find mistakes early, `runner` locks its folder, `assemble` builds the
training setup (`instantiate` turns each `_target_` into an object), `training.loop` trains it, and
`record` creates its record. `worker` does this in a process of a sweep.
"""
