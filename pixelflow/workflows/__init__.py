"""Steps that several jobs have in common: training, sampling, measuring and the pipeline of all three."""
