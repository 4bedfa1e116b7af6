"""The training of one job: steps, epochs, the teacher, how steps are executed."""
