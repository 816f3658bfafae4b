# Kernel packages by the kernel's own rules, and one named $META that depends on the image.
export KBUILD_BUILD_USER=tdxstack KBUILD_BUILD_HOST=tdxstack KBUILD_BUILD_TIMESTAMP="@$SOURCE_DATE_EPOCH"
export DEBEMAIL=tdxstack@localhost DEBFULLNAME=tdxstack
version=$(make -s LOCALVERSION="$LOCALVERSION" kernelrelease)
make -j"$JOBS" LOCALVERSION="$LOCALVERSION" KDEB_PKGVERSION="$VERSION-$RELEASE" bindeb-pkg
mv ../*.deb "$PACKAGES/"
rm -f "$PACKAGES"/*-dbg_*.deb
mkdir -p /tmp/meta/DEBIAN
cat >/tmp/meta/DEBIAN/control <<EOF
Package: $META
Version: $VERSION-$RELEASE
Architecture: amd64
Maintainer: tdxstack <tdxstack@localhost>
Depends: linux-image-$version
Section: kernel
Priority: optional
Description: kernel with Intel TDX, $version
EOF
dpkg-deb --root-owner-group --build /tmp/meta "$PACKAGES/${META}_$VERSION-${RELEASE}_amd64.deb"
