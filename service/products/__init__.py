"""Products: things that a job makes and other jobs use. Data sets and models are such."""
