"""The pages that a person opens: a run's report, two runs compared, an audit."""
