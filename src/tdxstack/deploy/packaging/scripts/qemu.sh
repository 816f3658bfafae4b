# QEMU for x86_64 guests; what the distribution's other packages bring (SeaBIOS, OVMF) is left to them.
mkdir -p build
cd build
../configure --prefix=/usr --sysconfdir=/etc --localstatedir=/var --libexecdir=/usr/lib/qemu \
    --target-list=x86_64-softmmu --enable-kvm --enable-vhost-net --enable-vhost-vsock --enable-slirp \
    --enable-seccomp --enable-numa --enable-tools --disable-werror --disable-docs --disable-download
make -j"$JOBS"
make install DESTDIR="$DESTDIR"
[ ! -e /etc/redhat-release ] || install -D "$DESTDIR/usr/bin/qemu-system-x86_64" "$DESTDIR/usr/libexec/qemu-kvm"
