"""The history of an agent: everything that changed a reservation, who asked for it, what the LUN answered."""
