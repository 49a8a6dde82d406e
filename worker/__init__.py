"""The worker: what a distillation is (methods, architectures, data sets, exports) and what runs it."""
