# libvirt with its QEMU driver and systemd units; no other hypervisors.
meson setup build --prefix=/usr --sysconfdir=/etc --localstatedir=/var --libdir=lib \
    -Ddriver_qemu=enabled -Ddriver_libvirtd=enabled -Ddriver_remote=enabled -Ddriver_network=enabled \
    -Ddriver_lxc=disabled -Ddriver_vbox=disabled -Ddriver_vmware=disabled -Ddriver_esx=disabled -Ddriver_ch=disabled \
    -Dstorage_dir=enabled -Dinit_script=systemd -Ddocs=disabled -Dtests=disabled -Dwerror=false
ninja -C build -j"$JOBS"
DESTDIR="$DESTDIR" ninja -C build install
