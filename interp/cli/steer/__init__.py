"""`interp steer fit | sweep | generate | chat | calibrate | bake`."""
