"""What an objective and a network must keep to, tried before the first step."""
