"""The exit statuses of a run, besides 0 and those of the shell.

`docs/pods.md` says what each means and what to do. A launcher can tell from the status
alone whether to start the same command again: after `INTERRUPTED`, `PREEMPTED`,
`PROCESS_LOST` and `STALLED` it resumes; after `MISTAKE` something must be fixed first.
"""

# After a `UserError`.
from data_pipelines.console.errors import MISTAKE as MISTAKE

# After Ctrl-C; in training the state was saved.
from data_pipelines.console.interrupts import INTERRUPTED as INTERRUPTED

# After SIGTERM: the state was saved, or there was none to save.
from data_pipelines.console.interrupts import TERMINATED as PREEMPTED  # noqa: F401

# BSD's EX_TEMPFAIL: another process of the run is gone.
PROCESS_LOST = 75
# The status of `timeout`: no step was finished in time.
STALLED = 124
