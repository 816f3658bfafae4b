# GRUB's modules and programs for x86_64-efi, and one EFI program of what a guest needs, without a configuration.
[ -x configure ] || ./bootstrap
# a release archive lacks this file of its own (2.12 and later read it)
[ -f grub-core/extra_deps.lst ] || : >grub-core/extra_deps.lst
./configure --prefix=/usr --sysconfdir=/etc --libdir=/usr/lib --sbindir=/usr/bin --disable-werror --disable-nls \
    --with-platform=efi --target=x86_64 --with-grubdir=grub
make -j"$JOBS"
make install DESTDIR="$DESTDIR"
mkdir -p "$DESTDIR/usr/lib/tdxstack/grub"
"$DESTDIR/usr/bin/grub-mkimage" --directory="$DESTDIR/usr/lib/grub/x86_64-efi" --format=x86_64-efi --prefix=/EFI/debian \
    --output="$DESTDIR/usr/lib/tdxstack/grub/grubx64.efi" \
    all_video boot cat configfile echo efinet ext2 fat font gfxterm gzio halt help linux loadenv ls minicmd normal \
    part_gpt reboot search search_fs_file search_fs_uuid search_label sleep test tpm true xfs
rm -rf "$DESTDIR/usr/share/info" "$DESTDIR/usr/share/man"
