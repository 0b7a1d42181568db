"""What recipes share: config sections and files, inputs, fitting with evaluation, results and the run folder."""
