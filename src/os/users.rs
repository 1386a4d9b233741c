//! May a user of this machine read or write a file? The question is about another user than the one
//! who runs this program: a service's user, before the service starts.
//!
//! Users and groups are those of /etc/passwd and /etc/group. This does not look at other rules:
//! access lists, security modules, users from a network.

use std::fs;
use std::path::Path;

/// The right to read a file, as a bit of its mode.
pub const READ: u32 = 4;
/// The right to write a file, or to make files in a folder and to rename them.
pub const WRITE: u32 = 2;
/// The right to pass through a folder.
#[cfg(unix)]
const PASS: u32 = 1;

/// A user, and the groups that they are in.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Their name.
    pub name: String,
    number: u32,
    groups: Vec<u32>,
}

impl User {
    /// The user of this name, if there is one.
    pub fn find(name: &str) -> Option<User> {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        User::parse(name, &users, &groups)
    }

    fn parse(name: &str, users: &str, groups: &str) -> Option<User> {
        let is_named = |line: &Vec<&str>| line.first() == Some(&name);
        let mut users = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let user = users.find(is_named)?;
        let own = user.get(3)?.parse().ok()?;
        let mut numbers = vec![own];
        for group in groups.lines() {
            let parts: Vec<&str> = group.split(':').collect();
            if let [_, _, number, members] = parts[..]
                && members.split(',').any(|member| member == name)
                && let Ok(number) = number.parse()
            {
                numbers.push(number);
            }
        }
        Some(User {
            name: name.to_owned(),
            number: user.get(2)?.parse().ok()?,
            groups: numbers,
        })
    }

    /// Whether this user has these rights on a file, and the right to reach it. A file that does
    /// not exist gives no rights.
    #[cfg(unix)]
    pub fn may(&self, file: &Path, rights: u32) -> bool {
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let mut folders = file.ancestors().skip(1);
        self.has(&file, rights) && folders.all(|folder| self.has(folder, PASS))
    }

    #[cfg(unix)]
    fn has(&self, file: &Path, rights: u32) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = fs::metadata(file) else {
            return false;
        };
        let shift = if self.number == metadata.uid() {
            6
        } else if self.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        };
        self.number == 0 || (metadata.mode() >> shift) & rights == rights
    }

    /// There are no modes here.
    #[cfg(not(unix))]
    pub fn may(&self, _: &Path, _: u32) -> bool {
        true
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn users_and_their_groups() {
        let users = "root:x:0:0:root:/root:/bin/bash\nfern:x:990:980::/:/sbin/nologin\n";
        let groups = "root:x:0:\nfern:x:980:\nkeys:x:70:a,fern\nother:x:71:fernando\n";
        let user = User::parse("fern", users, groups).unwrap();
        assert_eq!((user.number, user.groups), (990, vec![980, 70]));
        assert_eq!(User::parse("fer", users, groups), None);
        assert_eq!(User::parse("x", "x:y", ""), None);
    }

    #[test]
    fn a_mode_gives_rights_to_owner_group_and_others() {
        let folder = std::env::temp_dir().join(format!("fernvpn-users-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        let metadata = fs::metadata(&file).unwrap();
        let user = |number, group| User {
            name: "x".into(),
            number,
            groups: vec![group],
        };
        let owner = user(metadata.uid(), 4_000_000);
        let member = user(4_000_000, metadata.gid());
        let other = user(4_000_000, 4_000_000);
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        set(0o640);
        assert!(member.may(&file, READ) && !member.may(&file, WRITE));
        assert!(owner.may(&file, READ | WRITE) && !other.may(&file, READ));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!member.may(&file, READ), "the folder keeps others out");
        assert!(!owner.may(&folder.join("none"), READ) || metadata.uid() == 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
