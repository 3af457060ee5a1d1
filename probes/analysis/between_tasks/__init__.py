"""What lies between tasks: separability, specificity, and the gain of tuning."""
