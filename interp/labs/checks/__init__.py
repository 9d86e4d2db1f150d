"""The checks of the labs, one file a lab: the lab's own functions, the cases, the usual mistakes."""
