# Kernel packages by the kernel's own rules, and one named $META that requires the image.
export KBUILD_BUILD_USER=tdxstack KBUILD_BUILD_HOST=tdxstack KBUILD_BUILD_TIMESTAMP="@$SOURCE_DATE_EPOCH"
version=$(make -s LOCALVERSION="$LOCALVERSION" kernelrelease)
make -j"$JOBS" LOCALVERSION="$LOCALVERSION" binrpm-pkg
mkdir -p /tmp/meta
cat >/tmp/meta/meta.spec <<EOF
Name: $META
Version: $VERSION
Release: $RELEASE
Summary: kernel with Intel TDX, $version
License: GPL-2.0-only
BuildArch: noarch
Requires: kernel-uname-r = $version

%description
%{summary}.

%files
EOF
rpmbuild -bb --define "_rpmdir /tmp/meta/RPMS" /tmp/meta/meta.spec
find . "$HOME/rpmbuild" /tmp/meta -name '*.rpm' ! -name '*.src.rpm' -exec mv -t "$PACKAGES" {} + 2>/dev/null
[ -n "$(ls "$PACKAGES")" ]
