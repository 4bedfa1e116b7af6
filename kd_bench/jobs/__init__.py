"""One job, from its configuration to its record.

In this order: `resolve` makes a frozen `Job` of a composed configuration, `validate` builds its
parts without weights to find mistakes early, `runner` locks its folder, `assemble` makes what it
trains with (by `instantiate`, which turns a `_target_` into an object), `training.loop` trains it,
and `record` writes down what came of it. `worker` is the same in a process of a sweep.
"""
