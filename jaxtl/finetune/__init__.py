"""What trains: parameter groups, freezing, stages."""
