"""The worker's shell: claims jobs, owns the engine as a child process, and writes down what it says. No torch."""
