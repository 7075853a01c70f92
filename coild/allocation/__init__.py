"""The way of a request for an address: decided, journalled, durable, answered."""
