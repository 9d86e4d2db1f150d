"""`interp steer fit | sweep | generate | calibrate | bake`."""
