"""PyCloudStack: machines, images, clusters and hosts as the white paper's section 3.5.2 names them.

The modules have the names of the original, so that its programs run with the import root changed:
``from tdxstack.cloud.vmguest import VMGuestFactory``. Everything here is a thin layer over ``vm``, ``image``,
``platform`` and ``system``; what a machine cannot do raises an error instead of being ignored.
"""
