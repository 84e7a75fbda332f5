use super::super::disk::DiskAccess;
use super::*;
use proptest::prelude::*;

const BASE: &str = "name='g'\nkernel='/k'\nmemory=64\n";

fn config(text: &str) -> DomainConfig {
    parse_config("a.cfg", text, &[]).unwrap().0
}

fn error(text: &str) -> String {
    parse_config("a.cfg", text, &[]).unwrap_err().to_string()
}

#[test]
fn a_whole_configuration() {
    let text = r#"# a guest
name = "guest"
kernel = '/guests/kernel'   # with a comment
ramdisk="/guests/initrd"; vcpus = 2
memory = 0x80
maxmem = "256"
disk = [
    'phy:/dev/vdb,xvda,w',
    "format=raw,vdev=xvdb,access=ro,target=vdc",   # trailing comma
]
root = "/dev/xvda"
extra = "quiet \
 debug"
on_crash = "preserve"
type = "pv"
vif = [ ]
uuid = "00112233-4455-6677-8899-aabbccddeeff"
"#;
    let text = text.replace("quiet \\\n debug", "quiet debug");
    let config = config(&text);
    assert_eq!((config.name.as_str(), config.kernel.as_str()), ("guest", "/guests/kernel"));
    assert_eq!(config.ramdisk.as_deref(), Some("/guests/initrd"));
    assert_eq!((config.memory_mib, config.maxmem_mib, config.vcpus, config.maxvcpus), (128, 256, 2, 2));
    assert_eq!(config.cmdline, "root=/dev/xvda quiet debug");
    assert_eq!(config.disks.len(), 2);
    assert_eq!((config.disks[1].target.as_str(), config.disks[1].access), ("vdc", DiskAccess::ReadOnly));
    assert_eq!((config.on_crash, config.on_reboot), (RestartAction::Preserve, RestartAction::Restart));
    assert_eq!(config.uuid.unwrap()[..3], [0, 0x11, 0x22]);
}

#[test]
fn event_channels_are_as_many_as_configured() {
    assert_eq!(config(BASE).event_channels, 1023);
    assert_eq!(config(&format!("{BASE}event_channels = 16383")).event_channels, 16383);
    for wrong in ["0", "131072"] {
        assert!(error(&format!("{BASE}event_channels = {wrong}")).contains("a.cfg:4"), "{wrong}");
    }
}

#[test]
fn lines_can_be_continued() {
    assert_eq!(config("name=\\\n'g'\nkernel='/k'\nmemory \\\n = 64").memory_mib, 64);
    assert_eq!(error("name='g' \\ x"), "a.cfg:1:10: a backslash may only stand at the end of a line");
}

#[test]
fn cmdline_wins_over_root_and_extra() {
    assert_eq!(config(&format!("{BASE}extra='a'\ncmdline='b'")).cmdline, "b");
}

#[test]
fn errors_name_file_line_and_column() {
    let cases = [
        ("name='g'\nkernel='/k'", "a.cfg:1:1: memory is not set"),
        ("name='g\nkernel='/k'", "a.cfg:1:6: this string does not end on its line"),
        ("name='g'\n  memory 64", "a.cfg:2:10: expected '=' after memory, found 64"),
        ("name=g", "a.cfg:1:6: expected a string, a number or a list; 'g' needs quotes"),
        ("name='g' x", "a.cfg:1:10: expected the line's end, found 'x'"),
        ("disk=['a',\n 'b'", "a.cfg:1:6: this list does not end"),
        ("disk=['a' 'b']", "a.cfg:1:11: expected ',' or ']', found a string"),
        ("memory=", "a.cfg:1:8: expected a string, a number or a list"),
        ("memory=6x", "a.cfg:1:8: '6x' is no number"),
        ("mem\u{f6}ry=6", "a.cfg:1:4: unexpected character '\u{f6}'"),
        ("a='\\q'", "a.cfg:1:4: unknown escape in a string"),
        ("a=[[[[[1]]]]]", "a.cfg:1:7: lists are nested too deeply"),
    ];
    for (text, message) in cases {
        assert_eq!(error(text), message);
    }
}

#[test]
fn bad_values_are_told_where_they_stand() {
    let cases = [
        ("memory=32", "a.cfg:4:1: memory was already set on line 3"),
        ("vcpus=0", "a.cfg:4:7: vcpus must be between 1 and 128"),
        ("vcpus='two'", "a.cfg:4:7: vcpus must be a number, not a string"),
        ("maxmem=32", "a.cfg:4:8: maxmem is less than memory (64)"),
        ("vcpus=3;maxvcpus=2", "a.cfg:4:18: maxvcpus is less than vcpus (3)"),
        ("disk='phy:/a,xvda,w'", "a.cfg:4:6: disk must be a list of strings, not a string"),
        ("disk=['phy:/a,xvda,w','phy:/b,xvda,w']", "a.cfg:4:23: xvda is there twice"),
        ("disk=['phy:/a,nope,w']", "a.cfg:4:15: 'nope' is no virtual disk's name"),
        ("type='hvm'", "a.cfg:4:6: type 'hvm' is not supported, only PV guests are"),
        ("pci=['00:03.0']", "a.cfg:4:5: pci devices are not supported"),
        ("vif=['bridge=br0,colour=red']", "a.cfg:4:18: 'colour' is not supported for an interface"),
        ("vif='mac=1'", "a.cfg:4:5: vif must be a list of strings, not a string"),
        (
            "vif=['mac=00:16:3e:00:00:01','mac=00:16:3e:00:00:01']",
            "a.cfg:4:30: 00:16:3e:00:00:01 is there twice",
        ),
        (
            "on_crash='explode'",
            "a.cfg:4:10: unknown action 'explode', expected destroy, restart, rename-restart or preserve",
        ),
        ("uuid='12'", "a.cfg:4:6: '12' is no UUID"),
    ];
    for (line, message) in cases {
        assert_eq!(error(&format!("{BASE}{line}")), message);
    }
    assert!(error("name='12'\nkernel='/k'\nmemory=64").ends_with("a name must not be a number"));
    assert!(error("name='a/b'\nkernel='/k'\nmemory=64").contains("a name has 1 to 64"));
    let long = "x".repeat(1024);
    assert!(error(&format!("{BASE}extra='{long}'")).starts_with("a.cfg:4:7: the command line has 1024"));
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let text = format!("{BASE}colour='red'\ncpus='0-1'\non_crash='coredump-restart'");
    let (config, warnings) = parse_config("a.cfg", &text, &[]).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "a.cfg:4:1: unknown setting colour",
            "a.cfg:5:1: cpus has no effect here",
            "a.cfg:6:1: no core is dumped here",
        ]
    );
    assert_eq!(config.on_crash, RestartAction::Restart);
}

#[test]
fn overrides_win_and_are_named() {
    let (config, _) = parse_config("a.cfg", BASE, &["memory=128".into(), "name=\"h\"".into()]).unwrap();
    assert_eq!((config.memory_mib, config.name.as_str()), (128, "h"));
    let error = parse_config("a.cfg", BASE, &["memory=".into()]).unwrap_err();
    assert_eq!(error.to_string(), "command line:1:8: expected a string, a number or a list");
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "[a-z=\\[\\]'\", \n#;\\\\0-9]{0,80}") {
        let _ = parse_config("f", &text, &[]);
        let _ = parse_config("f", &format!("{BASE}disk=['{text}']"), &[]);
    }

    #[test]
    fn positions_lie_in_the_text(text in "(.|\n){0,60}") {
        if let Err(error) = parse_config("f", &text, &[]) {
            prop_assert!(usize::try_from(error.at.line).unwrap() <= text.matches('\n').count() + 1);
        }
    }
}
