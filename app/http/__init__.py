"""The API over HTTP: the application, the policy of its routes, and what they share."""
