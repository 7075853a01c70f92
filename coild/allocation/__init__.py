"""What happens to a request for an address: decided, journalled, durable, answered."""
