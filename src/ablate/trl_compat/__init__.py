"""The only place that touches TRL and Trainer internals; written and tested for TRL 1.16."""
