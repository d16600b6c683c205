"""What an optimizer holds: hyperparameters, slots, and how both are saved."""
