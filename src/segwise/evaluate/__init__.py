"""Plans into tasks, tasks into predictions, predictions into scores."""
