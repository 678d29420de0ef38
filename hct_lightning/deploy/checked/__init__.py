"""What of a stranger's TorchScript archive may run: only what is known, whatever else there is."""
