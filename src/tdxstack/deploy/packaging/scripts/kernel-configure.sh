# The kernel's configuration: the architecture's default with the fragments over it.
make defconfig
scripts/kconfig/merge_config.sh -m .config "$CONFIG"/*.config
make olddefconfig
