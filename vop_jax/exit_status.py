"""With which status a run ends, besides 0 and a shell's own.

`docs/pods.md` says what each means and what to do. A launcher can tell from the status
alone whether the same command would go on: after `PREEMPTED`, `PROCESS_LOST` and
`STALLED` it would, after `MISTAKE` something has to be mended first.
"""

# A `UserError`; `data_pipelines.errors` ends a command with it.
MISTAKE = 2
# BSD's EX_TEMPFAIL: another process of the run is gone.
PROCESS_LOST = 75
# What `timeout` answers: no step was finished in time.
STALLED = 124
# What a shell answers for SIGTERM: the state was saved, or there was none to save.
PREEMPTED = 143
