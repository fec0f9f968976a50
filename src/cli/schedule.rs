//! The flags of `cronjob` and `job`: those of the prune, which are checked and carried into the job, and their own.

use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser};

use super::{
    caching::CacheArgs,
    connection::ConnectionArgs,
    options::{Keep, OutputFormat},
    parse::Invocation,
    registry::RegistryArgs,
    running::RunningArgs,
    selection::SelectionArgs,
    subcommand::{CommonArgs, Subcommand, command},
    validate::{
        self, NO_NAMESPACE, boolean, integer, invalid, is_label, is_subdomain, nonempty, num_workers, switch,
    },
};
use crate::{
    cache::detect::{Origin, Source},
    cluster::ConnectionOptions,
    error::Failure,
    model::Quantity,
    registry::{Scheme, Via},
    schedule::{
        Apply, Authority, Carried, CronOptions, IMAGE, Schedule, ScheduleError, ScheduleOptions, SecretKey,
        zone,
    },
    text::quoted,
};

/// The longest name of a `CronJob`: the controller adds up to 11 characters for each job.
const LONGEST_CRON_NAME: usize = 52;

/// The prune's flags: what is given here is carried into the job.
#[derive(Args)]
#[command(next_help_heading = "The prune: carried into the job")]
struct CarriedArgs {
    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    registry: RegistryArgs,

    /// How many deletions are in flight
    ///
    /// No more requests than that are on their way at once, to the API server and the registry together; fewer while one
    /// of them answers that there are too many (429, 503), or not at all. Default (also for 0): for each of the two as
    /// many as it answers without getting slower, from 5 to 64.
    #[arg(long, value_name = "N")]
    num_workers: Option<String>,

    #[command(flatten)]
    running: RunningArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Flags of the prune that name a file of this machine: what is in it is carried, in an object of its own.
const FILES: [&str; 5] = [
    "certificate-authority",
    "redis-password-file",
    "redis-ca",
    "redis-client-certificate",
    "redis-client-key",
];

/// What both commands have.
#[derive(Args)]
struct ObjectArgs {
    /// Output: yaml or json
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    /// The name of the objects
    ///
    /// Default: prune-images; a Job has the time behind it.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The namespace that the job runs in
    ///
    /// Default: openshift-image-registry, where its pod gets the label that the NetworkPolicies there want. (-n,
    /// --namespace is a flag of the prune, and means here what it means there: which image streams are pruned.)
    #[arg(long, value_name = "NAME")]
    job_namespace: Option<String>,

    /// The image of this program
    #[arg(long, value_name = "IMAGE", long_help = IMAGE_HELP)]
    image: Option<String>,

    /// What the container is sure to get: cpu=100m,memory=256Mi
    ///
    /// Default: cpu=100m,memory=256Mi. Empty for none.
    #[arg(long, value_name = "AMOUNTS")]
    requests: Option<String>,

    /// What the container gets at most: memory=1Gi
    #[arg(long, value_name = "AMOUNTS")]
    limits: Option<String>,

    /// The Secret and key that hold Redis' password: NAME/KEY
    ///
    /// In the job's namespace. It is mounted as a file; nobody sees it in the job.
    #[arg(long, value_name = "NAME/KEY")]
    redis_secret: Option<String>,

    /// The Secret that holds a client certificate for Redis
    ///
    /// Of type kubernetes.io/tls, in the job's namespace.
    #[arg(long, value_name = "NAME")]
    redis_client_secret: Option<String>,

    /// A persistent volume claim for the journal of its runs
    ///
    /// In the job's namespace. The job first finishes what a run before it has left, should that have been cut short, and
    /// then prunes. Without it the journal ends with the pod: a prune that is killed leaves links behind that nothing names.
    #[arg(long, value_name = "NAME")]
    journal_claim: Option<String>,

    /// A Secret that the registry's configuration refers to (can be repeated)
    ///
    /// The job gets the right to read it: without, a Redis whose password is in there cannot be spoken to. Where a
    /// cluster is asked (--apply, --from-imagepruner), those that the caches need are found.
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    registry_secret: Vec<String>,

    /// A config map that it refers to (can be repeated)
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    registry_configmap: Vec<String>,

    /// Take the settings of the cluster's own pruner
    ///
    /// Reads imagepruners.imageregistry.operator.openshift.io/cluster. Flags that are given here come first.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    from_imagepruner: Option<String>,

    /// Show what would change in the cluster, instead of the objects
    ///
    /// With --confirm it is done: a server-side apply by the field manager oc-prune-images.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    apply: Option<String>,

    /// With --apply: do it, rather than show what would change
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    confirm: Option<String>,

    /// With --apply: also where somebody else has set a field
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_conflicts: Option<String>,

    #[command(flatten)]
    carried: CarriedArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Not a doc comment: it names the version.
const IMAGE_HELP: &str = concat!(
    "The image of this program\n\nIt is built from the file Containerfile of the source. Default: \
     ghcr.io/oc-prune-images/oc-prune-images:v",
    env!("CARGO_PKG_VERSION"),
    "."
);

/// Print the objects that prune on a schedule
///
/// A List for oc apply -f -: a service account, its rights, and a CronJob. The flags of the prune are carried into it, and
/// checked first as a prune checks them; the job always has --confirm. It gets the rights of system:image-pruner, those that
/// the chosen cache step needs beyond them, and no other.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_CRON)]
pub(super) struct CronJob {
    /// When it runs: five fields, or a name as @daily
    ///
    /// Minute, hour, day of the month, month, day of the week, as Kubernetes takes them. Default: '0 1 * * *'.
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<String>,

    /// The time zone of the schedule, as in Europe/Vienna
    ///
    /// Default: that of the cluster's controllers, which is UTC.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,

    /// Create it, but do not run it yet
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    suspend: Option<String>,

    /// How many jobs that went well are kept; default 3
    #[arg(long, value_name = "N")]
    successful_jobs_history_limit: Option<String>,

    /// How many jobs that failed are kept; default 3
    #[arg(long, value_name = "N")]
    failed_jobs_history_limit: Option<String>,

    #[command(flatten)]
    objects: ObjectArgs,
}

/// Print the objects that prune once
///
/// A List for oc apply -f -: a service account, its rights, and a Job. The flags of the prune are carried into it, and
/// checked first as a prune checks them; the job always has --confirm. It gets the rights of system:image-pruner, those that
/// the chosen cache step needs beyond them, and no other. A week after its end the Job goes away.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_JOB)]
pub(super) struct Once {
    #[command(flatten)]
    objects: ObjectArgs,
}

const AFTER_CRON: &str = "\
Examples:
  {program} cronjob --schedule='30 2 * * *' --keep-tag-revisions=5 | oc apply -f -
  {program} cronjob --schedule=@weekly --timezone=Europe/Vienna --registry-cache=restart
  {program} cronjob --from-imagepruner --apply
  {program} cronjob --from-imagepruner --apply --confirm

Exit codes:
  0  done; also: only shown
  1  an error; nothing was changed, or what is said
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

const AFTER_JOB: &str = "\
Examples:
  {program} job --keep-younger-than=96h | oc apply -f -
  {program} job --from-imagepruner --apply --confirm

Exit codes:
  0  done; also: only shown
  1  an error; nothing was changed, or what is said
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What was typed, and how it was spelled.
pub(super) struct Typed<A> {
    args: A,
    /// The prune's flags that were given: long name and value, in the order of the help.
    carried: Vec<(String, String)>,
    /// All that were given, but for those of the connection, for a shell.
    words: String,
}

pub(super) type CronJobArgs = Typed<CronJob>;
pub(super) type JobArgs = Typed<Once>;

impl<A: CommandFactory> CommandFactory for Typed<A> {
    fn command() -> clap::Command {
        A::command()
    }

    fn command_for_update() -> clap::Command {
        A::command_for_update()
    }
}

impl<A: CommandFactory + FromArgMatches> FromArgMatches for Typed<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = CarriedArgs::augment_args(clap::Command::new(""));
        let carried = given(&flags, matches)
            .chain(given(&CommonArgs::augment_args(clap::Command::new("")), matches))
            .filter(|(flag, _)| !FILES.contains(&flag.as_str()) && flag != "help")
            .collect();
        let connection = ConnectionArgs::augment_args(clap::Command::new(""));
        let hidden: Vec<String> = given(&connection, matches).map(|(flag, _)| flag).collect();
        let shown = |flag: &String| {
            !hidden.contains(flag) && flag != "apply" && flag != "confirm" && flag != "force-conflicts"
        };
        let command = A::command();
        let shown = given(&command, matches).filter(|(flag, _)| shown(flag));
        let words: Vec<String> = shown.map(|(flag, value)| format!(" --{flag}={}", quoted(&value))).collect();
        let words = words.concat();
        Ok(Self { args: A::from_arg_matches(matches)?, carried, words })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags of a command that were given, with each value.
fn given(command: &clap::Command, matches: &ArgMatches) -> impl Iterator<Item = (String, String)> {
    let mut given = Vec::new();
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let values = matches.get_raw(argument.get_id().as_str()).into_iter().flatten();
        given.extend(values.map(|value| (long.to_owned(), value.to_string_lossy().into_owned())));
    }
    given.into_iter()
}

impl Subcommand for CronJobArgs {
    const SYNOPSIS: &str = "cronjob [flags]";

    fn common(&self) -> &CommonArgs {
        &self.args.objects.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let CronJob { schedule, timezone, suspend, .. } = &self.args;
        let number = |flag, word: &Option<String>| word.as_deref().map(|word| count(flag, word)).transpose();
        let cron = CronOptions {
            schedule: nonempty(schedule.clone()).as_deref().map(read_schedule).transpose()?,
            timezone: nonempty(timezone.clone()).map(read_zone).transpose()?,
            suspend: boolean("--suspend", suspend.as_deref())?,
            successful: number("--successful-jobs-history-limit", &self.args.successful_jobs_history_limit)?,
            failed: number("--failed-jobs-history-limit", &self.args.failed_jobs_history_limit)?,
        };
        let words = format!("{program} cronjob{}", self.words);
        options(self.args.objects, program, words, self.carried, Some(cron))
    }
}

impl Subcommand for JobArgs {
    const SYNOPSIS: &str = "job [flags]";

    fn common(&self) -> &CommonArgs {
        &self.args.objects.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let words = format!("{program} job{}", self.words);
        options(self.args.objects, program, words, self.carried, None)
    }
}

/// Both with their flags.
pub(super) fn commands(program: &str) -> [clap::Command; 2] {
    [command::<CronJobArgs>(program), command::<JobArgs>(program)]
}

pub(super) const FORMATS: [(&str, OutputFormat); 2] =
    [("json", OutputFormat::Json), ("yaml", OutputFormat::Yaml)];

fn options(
    args: ObjectArgs,
    program: &str,
    words: String,
    flags: Vec<(String, String)>,
    cron: Option<CronOptions>,
) -> Result<Invocation, Failure> {
    let longest = if cron.is_some() { LONGEST_CRON_NAME } else { 63 };
    let name = nonempty(args.name.clone());
    if let Some(name) = name.as_deref().filter(|name| !is_label(name) || name.len() > longest) {
        let why = format!(
            "it has at most {longest} lower case letters, digits and '-', and neither begins nor ends with '-'"
        );
        return Err(invalid("--name", name, why));
    }
    let namespace = nonempty(args.job_namespace.clone());
    if let Some(namespace) = namespace.as_deref().filter(|name| !is_label(name)) {
        return Err(invalid("--job-namespace", namespace, NO_NAMESPACE));
    }
    let image = nonempty(args.image.clone()).unwrap_or_else(|| IMAGE.to_owned());
    if image.starts_with('-') || !image.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid("--image", &image, "it is no pull spec"));
    }
    let journal_claim = nonempty(args.journal_claim.clone());
    if let Some(name) = journal_claim.as_deref().filter(|name| !is_subdomain(name)) {
        return Err(invalid("--journal-claim", name, NO_NAME));
    }
    let apply = apply(&args)?;
    let output = nonempty(args.output.clone());
    if apply.is_some() && output.is_some() {
        return Err(Failure::usage("--output cannot be specified with --apply")
            .hint("leave --apply out to have the objects printed"));
    }
    let output = validate::output_of(output.as_deref(), &FORMATS)?;
    let from_imagepruner = switch("--from-imagepruner", args.from_imagepruner.as_deref())?;
    let requests = args.requests.as_deref().map(|word| amounts("--requests", word)).transpose()?;
    let limits = args.limits.as_deref().map(|word| amounts("--limits", word)).transpose()?;
    let verbosity = args.common.verbosity()?;
    let secrets = (args.redis_secret, args.redis_client_secret);
    let sources = (args.registry_secret, args.registry_configmap);
    let connection = args.connection.options()?;
    // Last, because it reads files: a mistake on the command line comes first.
    let prune = prune(args.carried, program, secrets, sources)?;
    let connection = ConnectionOptions { field_manager: prune.field_manager.clone(), ..connection };
    Ok(Invocation::Schedule(Box::new(ScheduleOptions {
        words,
        verbosity,
        json: output == OutputFormat::Json,
        cron,
        name,
        namespace,
        image,
        journal_claim,
        requests,
        limits,
        flags,
        prune,
        apply,
        from_imagepruner,
        connection,
    })))
}

fn apply(args: &ObjectArgs) -> Result<Option<Apply>, Failure> {
    let apply = switch("--apply", args.apply.as_deref())?;
    let confirm = switch("--confirm", args.confirm.as_deref())?;
    let force = switch("--force-conflicts", args.force_conflicts.as_deref())?;
    if confirm && !apply {
        return Err(Failure::usage("--confirm needs --apply: without it the objects are only printed")
            .hint("the job itself always has --confirm"));
    }
    if force && !apply {
        return Err(Failure::usage("--force-conflicts needs --apply"));
    }
    Ok(apply.then_some(Apply { confirm, force }))
}

/// Checks the prune's flags as a prune does.
fn prune(
    args: CarriedArgs,
    program: &str,
    (password, client): (Option<String>, Option<String>),
    (secrets, config_maps): (Vec<String>, Vec<String>),
) -> Result<Carried, Failure> {
    let selection = args.selection.options()?;
    num_workers(args.num_workers.as_deref())?;
    let running = args.running.options(OutputFormat::Text)?;
    if running.report.is_some() {
        return Err(Failure::usage("--report cannot be carried into the job, which has no place for a page")
            .hint(format!(
                "leave it out; a page about what a prune would do: {program} --dry-run --report=FILE"
            )));
    }
    let (step, check) = (args.cache.strategy()?, args.cache.check()?);
    args.cache.timeout()?;
    let place = args.cache.place.place()?;
    let redis_password = nonempty(password).map(|word| secret_key(&word)).transpose()?;
    let redis_client = nonempty(client);
    if let Some(name) = redis_client.as_deref().filter(|name| !is_subdomain(name)) {
        return Err(invalid("--redis-client-secret", name, NO_NAME));
    }
    let mut sources = Vec::new();
    for (flag, origin, names) in [
        ("--registry-secret", Origin::Secret, secrets),
        ("--registry-configmap", Origin::ConfigMap, config_maps),
    ] {
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            if !is_subdomain(&name) {
                return Err(invalid(flag, &name, NO_NAME));
            }
            sources.push(Source { origin, namespace: place.namespace.clone(), name });
        }
    }
    let redis = args.cache.redis.in_cluster(redis_password.is_some(), redis_client.is_some())?;
    let registry = args.registry.options()?;
    let is_plain = registry.url.as_ref().is_some_and(|url| url.scheme() == Some(Scheme::Http));
    let authority = match registry.ca {
        _ if !selection.prune_registry => Authority::None,
        // A route is vouched for by the authority of the cluster's ingress.
        None if registry.via == Some(Via::Route) => Authority::None,
        // What parsed as PEM is text.
        Some(ca) => Authority::Given(String::from_utf8_lossy(&ca.pem).into_owned()),
        None if registry.force_insecure || is_plain => Authority::None,
        None => Authority::Service,
    };
    Ok(Carried {
        step: selection.prune_registry.then_some(step),
        check,
        verify: running.verify,
        place,
        by_size: selection.keep == Keep::OverSizeLimit,
        referrers: selection.referrers_from,
        authority,
        redis_is_given: redis.is_given,
        redis_ca: redis.ca,
        redis_password,
        redis_client,
        sources,
        timeout: running.timeout.map(|timeout| timeout.as_secs()),
        via: registry.via,
        field_manager: running.field_manager,
    })
}

const NO_NAME: &str = "a name has at most 253 lower case letters, digits, '-' and '.', and begins and ends with a letter or digit";

fn secret_key(word: &str) -> Result<SecretKey, Failure> {
    let is_key = |key: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !key.is_empty() && key.len() <= 253 && key.chars().all(legal) && !key.starts_with("..") && key != "."
    };
    match word.split_once('/') {
        Some((name, key)) if is_subdomain(name) && is_key(key) => {
            Ok(SecretKey { name: name.to_owned(), key: key.to_owned() })
        }
        _ => Err(invalid("--redis-secret", word, "it is no name and key of a Secret")
            .hint("the form is --redis-secret=NAME/KEY, as in redis/password")),
    }
}

fn read_schedule(word: &str) -> Result<Schedule, Failure> {
    Schedule::parse(word).map_err(|error| {
        let failure = invalid("--schedule", word, &error);
        match error {
            ScheduleError::Zone => failure.hint("give it apart: --timezone=Europe/Vienna"),
            ScheduleError::Fields(6) => failure.hint("there are no seconds: leave the first field out"),
            ScheduleError::Name(_) => failure.hint(
                "names are @yearly, @monthly, @weekly, @daily and @hourly; instead of @every write fields, as in '0 */6 * * *'",
            ),
            _ => failure.hint("a schedule is --schedule='30 2 * * *' for every night at half past two"),
        }
    })
}

fn read_zone(name: String) -> Result<String, Failure> {
    if zone(&name).is_some() {
        return Ok(name);
    }
    Err(invalid("--timezone", &name, "there is no such time zone in the IANA database")
        .hint("a time zone is --timezone=Europe/Vienna or --timezone=Etc/UTC"))
}

fn count(flag: &'static str, word: &str) -> Result<u32, Failure> {
    let number = integer(flag, word)?;
    u32::try_from(number)
        .ok()
        .filter(|number| i32::try_from(*number).is_ok())
        .ok_or_else(|| invalid(flag, word, format!("it must be between 0 and {}", i32::MAX)))
}

/// Amounts of resources as kubectl takes them: `cpu=100m,memory=256Mi`.
fn amounts(flag: &'static str, word: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut amounts: Vec<(String, String)> = Vec::new();
    for part in word.split(',').filter(|part| !part.is_empty()) {
        let form = || {
            invalid(flag, part, "it is no amount of a resource")
                .hint(format!("the form is {flag}=cpu=100m,memory=256Mi"))
        };
        let (name, amount) = part.split_once('=').ok_or_else(form)?;
        let is_known = matches!(name, "cpu" | "memory" | "ephemeral-storage");
        if !is_known || Quantity::parse(amount).is_none() || amount.starts_with('-') {
            return Err(form());
        }
        if amounts.iter().any(|(known, _)| known == name) {
            return Err(invalid(flag, word, format!("{name} is given twice")));
        }
        amounts.push((name.to_owned(), amount.to_owned()));
    }
    Ok(amounts)
}
