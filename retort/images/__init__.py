"""Parts that all image tasks share: augmentation and views, a batch at a time on the device."""
